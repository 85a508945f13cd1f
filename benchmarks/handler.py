"""Measures a delivery through WSGI in this process, compared with an empty view."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO
from typing import Any

from django.core.handlers.wsgi import WSGIHandler
from django.test import override_settings

from benchmarks import tasks
from benchmarks.harness import OURS, Budget, Case, Effort, Scenario
from benchmarks.project import MEMORY, cloudtask_settings
from cloudtask.emulator.tokens import SigningKey
from cloudtask.transports import memory

REQUESTS = 500
EMPTY = "empty Django view"
WITH_TOKEN = "cloudtask, OIDC token verified"
ACCOUNT = "tasks@p.iam.gserviceaccount.com"
AUDIENCE = "https://app.example"


def scenario(effort: Effort) -> Scenario:
    body = _sealed_call()
    path = f"/_cloudtask/run/{tasks.ours.path}"
    issuer = Issuer()
    app_engine = {"HTTP_X_APPENGINE_QUEUENAME": "default"}
    bearer = {"HTTP_AUTHORIZATION": f"Bearer {issuer.token()}"}
    application = WSGIHandler()
    return Scenario(
        title="Handle one delivery of a no-op, over an empty view",
        cases=[
            Case(EMPTY, _requests(application, "/empty/", body, app_engine), REQUESTS),
            Case(OURS, _requests(application, path, body, app_engine), REQUESTS),
            Case(
                WITH_TOKEN,
                _requests(application, path, body, bearer),
                REQUESTS,
                issuer.trusted,
            ),
        ],
        about=(
            "A request of Cloud Tasks goes through Django's WSGI handler. cloudtask"
            " verifies the source and the signature, decodes, and runs the task."
        ),
        baseline=EMPTY,
        budgets=[
            Budget(
                "the handler over an empty view",
                lambda results: results[OURS].best / results[EMPTY].best - 1,
                0.8,
                "x of the view",
                "It verifies sender and signature, decodes the call, and looks at the "
                "connections before and after it.",
            )
        ],
        around=issuer.serving,
    )


def _sealed_call() -> bytes:
    with override_settings(CLOUDTASK=cloudtask_settings(TRANSPORT=MEMORY)):
        tasks.ours.defer(7, template="rich")
        waiting = memory.queue().pop()
    assert waiting is not None
    return waiting.body


def _requests(
    application: WSGIHandler, path: str, body: bytes, headers: dict[str, str]
) -> Callable[[], None]:
    """A function that posts the body `REQUESTS` times, as a WSGI server does."""
    environ: dict[str, Any] = {
        "REQUEST_METHOD": "POST",
        "PATH_INFO": path,
        "QUERY_STRING": "",
        "SERVER_NAME": "app.example",
        "SERVER_PORT": "443",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "CONTENT_TYPE": "application/octet-stream",
        "CONTENT_LENGTH": str(len(body)),
        "wsgi.url_scheme": "https",
        "wsgi.multithread": True,
        **headers,
    }
    statuses: set[str] = set()

    def run() -> None:
        statuses.clear()
        for _ in range(REQUESTS):
            request = {**environ, "wsgi.input": BytesIO(body)}
            response = application(request, lambda status, _: statuses.add(status))
            b"".join(response)
            response.close()
        assert statuses == {"200 OK"}, statuses

    return run


class Issuer:
    """Signs tokens, and serves its certificate on a port of this machine.

    cloudtask fetches the certificate once, like Google's.
    """

    def __init__(self) -> None:
        key = SigningKey()
        certificates = json.dumps({key.id: key.public_pem}).encode()

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200)
                self.send_header("Cache-Control", "max-age=3600")
                self.end_headers()
                self.wfile.write(certificates)

            def log_message(self, *args: object) -> None:
                pass

        self.key = key
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def token(self) -> str:
        now = int(time.time())
        claims = {"iss": self.url, "aud": AUDIENCE, "iat": now, "exp": now + 3600}
        return self.key.jwt({**claims, "email": ACCOUNT, "email_verified": True})

    @contextmanager
    def serving(self) -> Iterator[None]:
        thread = threading.Thread(target=self.server.serve_forever)
        thread.start()
        try:
            yield
        finally:
            self.server.shutdown()
            self.server.server_close()
            thread.join()

    def trusted(self) -> AbstractContextManager[object]:
        """The settings of a site that trusts this issuer."""
        target = {
            "BACKEND": "cloudtask.targets.HttpTarget",
            "URL": AUDIENCE,
            "SERVICE_ACCOUNT": ACCOUNT,
            "ISSUER": self.url,
        }
        return override_settings(CLOUDTASK=cloudtask_settings(TARGET=target))
