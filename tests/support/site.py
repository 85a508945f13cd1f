"""A deployed application, in process: what its settings are and how Cloud Tasks calls.

The `site` fixture is one behind an HttpTarget, its tokens issued by `site.issuer`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.core import signals
from django.core.handlers.asgi import ASGIHandler
from django.db import close_old_connections
from django.test import Client, override_settings

from cloudtask import envelope
from cloudtask.message import Message
from cloudtask.targets import oidc
from tests.support import recording
from tests.support.tokens import Issuer, issuing

ACCOUNT = "tasks@p.iam.gserviceaccount.com"


def http_settings(issuer: str, **changes: Any) -> dict[str, Any]:
    return {
        "PROJECT": "p",
        "LOCATION": "l",
        "TRANSPORT": {"BACKEND": recording.PATH},
        "TARGET": {
            "BACKEND": "cloudtask.targets.HttpTarget",
            "URL": "https://app.example",
            "SERVICE_ACCOUNT": ACCOUNT,
            "ISSUER": issuer,
        },
        **changes,
    }


class Site:
    def __init__(self, issuer: Issuer) -> None:
        self.issuer = issuer
        self.client = Client(raise_request_exception=False)

    def post(
        self,
        body: bytes,
        task: str = "tests.testapp.tasks.note",
        *,
        token: str | None = "good",
        headers: dict[str, str] | None = None,
        **extra: Any,
    ) -> Any:
        """The answer to a POST of `body` to the handler of `task`."""
        sent = {"X-CloudTasks-QueueName": "default", **(headers or {})}
        if token is not None:
            token = self.issuer.token() if token == "good" else token
            sent["Authorization"] = f"Bearer {token}"
        return self.client.post(
            f"/_cloudtask/run/{task}",
            body,
            content_type="application/octet-stream",
            headers=sent,
            **extra,
        )

    def deliver(self, message: Message | None = None, **given: Any) -> Any:
        """Deliver what was sent last, or `message`, as Cloud Tasks would."""
        found = message or recording.sent[-1]
        return self.post(envelope.seal(found), found.task, **given)


@pytest.fixture
def site(settings: Any) -> Iterator[Site]:
    with issuing() as issuer, override_settings(CLOUDTASK=http_settings(issuer.url)):
        oidc.certificates.clear()
        recording.sent.clear()
        yield Site(issuer)
        oidc.certificates.clear()


def asgi_status(chunks: Sequence[bytes], headers: Sequence[tuple[str, str]]) -> int:
    """The status of a POST in chunks, as servers pass it. The names of headers may
    repeat, which Django's client can't send."""
    events = [
        {"type": "http.request", "body": chunk, "more_body": True} for chunk in chunks
    ] + [{"type": "http.request", "body": b"", "more_body": False}]
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        if events:
            return events.pop(0)
        await asyncio.sleep(60)
        return {"type": "http.disconnect"}

    async def send(event: dict[str, Any]) -> None:
        sent.append(event)

    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "https",
        "path": "/_cloudtask/run/tests.testapp.tasks.note",
        "query_string": b"",
        "headers": [
            (b"host", b"testserver"),
            *((name.encode(), value.encode()) for name, value in headers),
        ],
        "server": ("testserver", 443),
        "client": ("127.0.0.1", 4),
    }
    # As a test client does: the connections of this thread stay open.
    signals.request_started.disconnect(close_old_connections)
    signals.request_finished.disconnect(close_old_connections)
    try:
        async_to_sync(ASGIHandler())(scope, receive, send)
    finally:
        signals.request_started.connect(close_old_connections)
        signals.request_finished.connect(close_old_connections)
    return int(sent[0]["status"])
