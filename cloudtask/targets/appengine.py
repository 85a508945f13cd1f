"""Makes the requests of tasks on App Engine, and verifies their sender by headers."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from django.http import HttpRequest

from cloudtask import conf
from cloudtask.exceptions import UntrustedRequest
from cloudtask.message import Message
from cloudtask.targets.dispatches import (
    AppEngineDispatch,
    called_origin,
    handler_path,
    headers_for,
    refused,
)


def on_app_engine() -> bool:
    """Whether the process runs on App Engine, standard or flexible."""
    environ = os.environ
    return environ.get("GAE_ENV") == "standard" or bool(
        environ.get("GAE_INSTANCE") and environ.get("GAE_SERVICE")
    )


class AppEngineTarget:
    """The App Engine application of the project; trust rests on stripped headers.

    Options: SERVICE and VERSION (default: the running ones), ON_APP_ENGINE (default:
    found out from the environment), VERIFY (True). Only App Engine removes
    X-AppEngine-* headers from requests of other senders: see
    https://cloud.google.com/tasks/docs/creating-appengine-handlers.
    """

    min_deadline = 15.0
    max_deadline = 86_415.0
    default_deadline = 600.0  # of automatic scaling; the other kinds allow 24 hours

    def __init__(self, options: Mapping[str, Any]) -> None:
        known = {
            "SERVICE": str,
            "VERSION": str,
            "ON_APP_ENGINE": bool,
            "VERIFY": bool,
        }
        conf.check_backend_options("TARGET", options, known)
        here = os.environ.get("GAE_SERVICE")
        self.service: str | None = options.get("SERVICE") or here
        self.version: str | None = options.get("VERSION")
        if self.version is None and self.service == here:
            # Another service has no version of this name.
            self.version = os.environ.get("GAE_VERSION")
        claimed = options.get("ON_APP_ENGINE")
        self.on_app_engine = on_app_engine() if claimed is None else bool(claimed)
        self.verifies = options.get("VERIFY", True) is not False

    @property
    def is_claimed(self) -> bool:
        """Whether a setting says App Engine where the environment does not."""
        return bool(self.on_app_engine) and not on_app_engine()

    @property
    def is_proof(self) -> bool:
        """Whether a verified request is known to come from App Engine.

        With an emulator it is not known, because nothing removes the headers there.
        """
        return self.on_app_engine or not self.verifies

    def request_for(self, message: Message) -> AppEngineDispatch:
        options = message.options
        elsewhere = options.service not in (None, self.service)
        origin = called_origin(message)
        if origin is not None:
            raise refused(
                message,
                "App Engine tasks need a path as their url, such as /tasks/, not an "
                f"address such as {origin}",
            )
        return AppEngineDispatch(
            relative_uri=options.url or handler_path(message.task),
            headers=headers_for(message),
            service=options.service or self.service,
            version=options.version or (None if elsewhere else self.version),
            instance=options.instance,
        )

    def verify(self, request: HttpRequest) -> None:
        if not self.verifies:
            return
        # An application with an emulator is not deployed. Nothing strips the headers
        # there, but the signature of the payload still decides whether it may run.
        if not self.on_app_engine and not conf.emulator_host():
            raise UntrustedRequest(
                "X-AppEngine-* headers prove nothing off App Engine."
            )
        if not request.META.get("HTTP_X_APPENGINE_QUEUENAME"):
            raise UntrustedRequest("The request does not come from a task queue.")
