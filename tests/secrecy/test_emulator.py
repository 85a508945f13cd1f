"""A marked secret in tasks that an emulator has: its page, its log, and its records."""

from __future__ import annotations

import logging
import urllib.request
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import pytest
from django.test import override_settings

from cloudtask.emulator import DispatchRecord, Emulator
from tests.secrecy import tasks
from tests.secrecy.journeys import MARK, Hidden
from tests.support.waiting import wait_until

ACCOUNT = "tasks@p.iam.gserviceaccount.com"


@pytest.fixture
def failing_server() -> Iterator[str]:
    """The address of a server that answers 500 to each task, with what it was sent."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.send_response(500, f"no: {MARK}")
            self.send_header("Content-Length", "0")
            self.send_header("X-CloudTask-Outcome", "failed")
            self.end_headers()

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def settings(url: str) -> dict[str, Any]:
    return {
        "PROJECT": "p",
        "LOCATION": "l",
        "QUEUES": {"default": {}, "bulk": {"spread": 2}},
        "TARGET": {
            "BACKEND": "cloudtask.targets.HttpTarget",
            "URL": url,
            "SERVICE_ACCOUNT": ACCOUNT,
        },
        "TRANSPORT": {"BACKEND": "cloudtask.transports.cloud.CloudTransport"},
    }


def test_an_emulator_shows_no_secret(
    failing_server: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    told: list[DispatchRecord] = []

    def tell(record: DispatchRecord) -> None:
        told.append(record)
        raise ValueError("a listener that fails is logged with the record")

    args = Hidden((MARK, {"note": MARK}))
    queues = {name: {"backoff": "1h..1h"} for name in ("default", "bulk-0", "bulk-1")}
    with Emulator(project="p", location="l", queues=queues, on_dispatch=tell) as here:
        monkeypatch.setenv("CLOUD_TASKS_EMULATOR_HOST", here.address)
        with override_settings(CLOUDTASK=settings(failing_server)):
            tasks.take.defer(*args.value)
            tasks.take.using(queue="bulk").defer(*args.value)
            tasks.tell_partner.defer(*args.value)
        wait_until(lambda: len(told) == 3, "three deliveries")
        page = read(here.http_address)
        health = read(f"{here.http_address}/healthz")
    assert "/hook?..." in page  # it lists the failures
    for text in (page, health, caplog.text, *map(str, told), *map(repr, told)):
        assert MARK not in text
        assert "eyJ" not in text  # as each token begins


def read(url: str) -> str:
    with urllib.request.urlopen(url) as answer:
        return str(answer.read().decode())
