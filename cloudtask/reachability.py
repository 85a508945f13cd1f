"""Checks that requests reach the handler, and Cloud Tasks, in this process."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import copy_context
from io import BytesIO
from typing import Any
from urllib.parse import urlsplit

from django.core.checks import CheckMessage, Warning
from django.core.handlers.base import BaseHandler
from django.core.handlers.wsgi import WSGIRequest
from django.core.signals import got_request_exception
from django.db import DatabaseError
from django.http import HttpResponseServerError
from django.urls import get_script_prefix

from cloudtask import conf, views
from cloudtask.exceptions import ConfigurationError
from cloudtask.targets import HttpTarget, handler_path, target


def handler_answers(app_configs: Any, **kwargs: Any) -> Sequence[CheckMessage]:
    """W008: a request reaches the handler through the project's middleware.

    It is a GET, which the handler refuses before it looks at anything else.
    """
    try:
        path = handler_path("task").removeprefix(get_script_prefix().rstrip("/"))
    except ConfigurationError:
        return []  # W001 says so
    if conf.settings().prefix is not None:
        return []  # the handler may be in another service
    with _errors() as errors:
        answer = copy_context().run(_answer_to, path)
    if answer.status_code == 405 and answer.content == views.POST_ONLY.encode():
        return []
    if answer.status_code == 400 and conf.hosts_are_those_of_tests():
        return []  # in development, the project's empty list allows local hosts
    if any(isinstance(error, DatabaseError) for error in errors):
        return []  # the tables of a middleware, which `migrate` may be about to make
    return [
        Warning(
            f"A request to the handler at {path} was answered {answer.status_code}"
            f"{_cause_of(answer, errors)}, not by the handler. Cloud Tasks would try "
            "again, and no task would run.",
            hint=_hint_for(answer),
            id="cloudtask.W008",
        )
    ]


def _answer_to(path: str) -> Any:
    """The answer of middleware, URLconf and view to a GET request, in-process."""
    found = target()
    address = urlsplit(
        found.url if isinstance(found, HttpTarget) else "https://localhost"
    )
    environ = {
        "REQUEST_METHOD": "GET",
        "PATH_INFO": path,
        "SERVER_NAME": address.hostname,
        "SERVER_PORT": str(address.port or (443 if address.scheme == "https" else 80)),
        "HTTP_HOST": address.netloc,
        "HTTP_USER_AGENT": "Google-Cloud-Tasks",
        "wsgi.url_scheme": address.scheme,
        "wsgi.input": BytesIO(),
    }
    handler = BaseHandler()
    handler.load_middleware()
    try:
        return handler.get_response(WSGIRequest(environ))
    except Exception:  # noqa: BLE001 - with DEBUG_PROPAGATE_EXCEPTIONS
        return HttpResponseServerError()


@contextmanager
def _errors() -> Iterator[list[BaseException]]:
    """Collects what views and middleware raise, and keeps it out of Django's log."""
    found: list[BaseException] = []
    here = threading.get_ident()

    def collect(**kwargs: Any) -> None:
        error = sys.exception() if threading.get_ident() == here else None
        if error is not None:
            found.append(error)

    def is_elsewhere(record: logging.LogRecord) -> bool:
        return record.thread != here

    log = logging.getLogger("django.request")
    log.addFilter(is_elsewhere)
    got_request_exception.connect(collect)
    try:
        yield found
    finally:
        got_request_exception.disconnect(collect)
        log.removeFilter(is_elsewhere)


def _cause_of(answer: Any, errors: Sequence[BaseException]) -> str:
    if errors:
        return f" after {type(errors[0]).__name__}"
    return f" with a redirect to {answer['Location']}" if "Location" in answer else ""


def _hint_for(answer: Any) -> str:
    location = answer.get("Location", "")
    if "login" in location:
        return "Let the middleware that asks for a login pass the handler's path."
    if location.startswith("https://"):
        return "Use https in CLOUDTASK['TARGET']['URL'], or SECURE_REDIRECT_EXEMPT."
    if answer.status_code == 400:
        return "Add the host of CLOUDTASK['TARGET']['URL'] to ALLOWED_HOSTS."
    if answer.status_code == 503:
        return "Let maintenance mode pass the handler's path."
    return "Let your middleware pass the handler's path."


def grpc_knows_gevent(app_configs: Any, **kwargs: Any) -> Sequence[CheckMessage]:
    """W009: where gevent has patched the process, gRPC was made to work with it."""
    gevent = sys.modules.get("gevent.monkey")
    is_patched = gevent is not None and gevent.is_module_patched("socket")
    if not is_patched or "grpc.experimental.gevent" in sys.modules:
        return []
    return [
        Warning(
            "gevent has patched this process, but gRPC does not know it: a request to "
            "Cloud Tasks blocks all greenlets.",
            hint="Call grpc.experimental.gevent.init_gevent() when the process starts.",
            id="cloudtask.W009",
        )
    ]
