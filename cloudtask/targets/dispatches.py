"""Defines the request of a dispatch, and the parts that every target needs for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Protocol

from django.http import HttpRequest
from django.urls import NoReverseMatch, get_script_prefix, reverse
from django.utils import translation

from cloudtask import conf
from cloudtask.addresses import Origin, origin_of
from cloudtask.exceptions import ConfigurationError, EnqueueError
from cloudtask.message import Message

CONTENT_TYPE = "application/octet-stream"


@dataclass(frozen=True, slots=True, kw_only=True)
class HttpDispatch:
    """An HttpRequest of google.cloud.tasks.v2, without its body."""

    url: str = field(repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    service_account: str | None = None
    audience: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AppEngineDispatch:
    """An AppEngineHttpRequest of google.cloud.tasks.v2, without its body."""

    relative_uri: str = field(repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    service: str | None = None
    version: str | None = None
    instance: str | None = None


class Target(Protocol):
    """The service that runs the tasks, and the check of who sent a request."""

    min_deadline: float
    max_deadline: float
    default_deadline: float

    def request_for(self, message: Message) -> HttpDispatch | AppEngineDispatch:
        """The request for `message`; raises ConfigurationError or EnqueueError."""
        ...

    def verify(self, request: HttpRequest) -> None:
        """Raise UntrustedRequest unless Cloud Tasks sent `request` to this project."""
        ...


NO_URL = (
    "The task handler has no URL: add path('_cloudtask/', include('cloudtask.urls')) "
    "to the root URLconf. If another service has the handler, set CLOUDTASK['PREFIX'] "
    "to its path there."
)


@lru_cache(maxsize=4096)
def _reversed(task: str, urlconf: str, language: str, script_prefix: str) -> str:
    """The path in that language; `script_prefix` is part of what `reverse` returns."""
    if not urlconf:
        raise ConfigurationError(NO_URL)
    try:
        with translation.override(language):
            return reverse("cloudtask:run", urlconf=urlconf, args=[task])
    except NoReverseMatch as error:
        raise ConfigurationError(NO_URL) from error


def handler_path(task: str) -> str:
    """The path of the handler for a task, for example /_cloudtask/run/app.tasks.send.

    With i18n_patterns it is the path for LANGUAGE_CODE, whatever language is active. It
    begins with the script prefix of the current request, or with FORCE_SCRIPT_NAME.
    """
    prefix = conf.settings().prefix
    if prefix is not None:
        return f"/{prefix.strip('/')}/run/{task}".replace("//", "/", 1)
    language = conf.language_code()
    return _reversed(task, conf.root_urlconf(), language, get_script_prefix())


def called_origin(message: Message) -> Origin | None:
    """The origin of a call's `url`; None for a path. Raises EnqueueError."""
    url = message.options.url
    if url is None:
        return None
    try:
        return origin_of(url)
    except ValueError as error:
        raise refused(message, f"its url {error}") from None


def refused(message: Message, why: str) -> EnqueueError:
    return EnqueueError(
        f"Task {message.task} ({message.id}) for queue {message.queue!r} was refused: "
        f"{why}."
    )


def headers_for(message: Message) -> dict[str, str]:
    return {"Content-Type": CONTENT_TYPE, **(message.options.headers or {})}
