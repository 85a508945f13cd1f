"""Chooses the request of a dispatch; verifies and reads it when it arrives."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache, lru_cache
from typing import Any, Protocol

from django.http import HttpRequest

from cloudtask import conf, development
from cloudtask.addresses import Origin, origin_of
from cloudtask.discretion import discreet
from cloudtask.exceptions import ConfigurationError, UntrustedRequest, noted
from cloudtask.message import Delivery, Message
from cloudtask.targets import oidc
from cloudtask.targets.appengine import AppEngineTarget, on_app_engine
from cloudtask.targets.dispatches import (
    AppEngineDispatch,
    HttpDispatch,
    Target,
    called_origin,
    handler_path,
    headers_for,
    refused,
)

__all__ = [
    "AppEngineDispatch",
    "AppEngineTarget",
    "HttpDispatch",
    "HttpTarget",
    "SentHeaders",
    "Target",
    "delivery_of",
    "handler_path",
    "header",
    "oidc",
    "on_app_engine",
    "target",
    "using",
]

BOT_ACCOUNT_HINT = 'e.g. "tasks@my-project.iam.gserviceaccount.com"'


class HttpTarget:
    """Any HTTPS service, such as Cloud Run or GKE; trust rests on an OIDC token.

    Options: URL (scheme and host), SERVICE_ACCOUNT (its email), AUDIENCE (default:
    URL), ISSUER (default: Google; an emulator's in development), VERIFY (True).
    The rules of the token are those of
    https://cloud.google.com/tasks/docs/creating-http-target-tasks.
    """

    min_deadline = 15.0
    max_deadline = 1800.0
    default_deadline = 600.0
    certificates = oidc.certificates

    def __init__(self, options: Mapping[str, Any]) -> None:
        known = {
            "URL": str,
            "SERVICE_ACCOUNT": str,
            "AUDIENCE": str,
            "ISSUER": str,
            "VERIFY": bool,
        }
        problems: list[str] = []
        with noted(problems):
            conf.check_backend_options("TARGET", options, known)
        self.url = str(options.get("URL") or "").rstrip("/")
        with noted(problems):
            self.origin = _own_origin(self.url)
        self.service_account: str | None = options.get("SERVICE_ACCOUNT")
        self.audience = str(options.get("AUDIENCE") or self.url)
        self.issuer: str | None = options.get("ISSUER")
        self.verifies = options.get("VERIFY", True) is not False
        if self.verifies and not self.service_account:
            problems.append(
                "CLOUDTASK['TARGET']['SERVICE_ACCOUNT'] must be the account that signs "
                f"the deliveries, {BOT_ACCOUNT_HINT}."
            )
        if problems:
            raise ConfigurationError.of(problems)

    def request_for(self, message: Message) -> HttpDispatch:
        """The request, with a token for the called origin only.

        With an emulator, the request goes to this machine: see `development.local_url`.
        """
        origin = called_origin(message)
        path = message.options.url or handler_path(message.task)
        is_ours = origin is None or origin == self.origin
        if conf.emulator_host() and origin is not None:
            path = self._near(message, origin, path, is_ours=is_ours)
        if not is_ours and not _is_allowed(origin):
            raise refused(
                message,
                f"its url leads to {origin}. If that host may get the call and its "
                "arguments, add it to CLOUDTASK['ALLOWED_URLS']",
            )
        audience = self.audience if is_ours else str(origin)
        return HttpDispatch(
            url=self.here + path if path.startswith("/") else path,
            headers=headers_for(message),
            service_account=self.service_account,
            audience=audience if self.service_account else None,
        )

    @property
    def here(self) -> str:
        """The address of the service: URL; with an emulator, this machine."""
        if not conf.emulator_host():
            return self.url
        return development.local_url(self.url, self.origin.host, sys.argv)

    def _near(
        self, message: Message, origin: Origin, url: str, *, is_ours: bool
    ) -> str:
        """The path or address of a call that goes to an emulator.

        Raises EnqueueError for another service that is not local: an emulator must not
        call production.
        """
        if development.is_near(origin.host):
            return url
        if not is_ours:
            raise refused(
                message,
                f"its url leads to {origin}, which is not local, while tasks go to an "
                "emulator",
            )
        rest = url.split("://", 1)[1]
        return "/" + rest.partition("/")[2]

    @discreet
    def verify(self, request: HttpRequest) -> None:
        if not self.verifies:
            return
        host = conf.emulator_host()
        if host is None or self.issuer:
            self._verify(request, self.issuer)
            return
        issuer = development.issuer_url(host)
        try:
            self._verify(request, issuer)
        except UntrustedRequest as error:
            raise UntrustedRequest(
                f"{error} With an emulator, {issuer} must issue the tokens: set "
                f"{development.HTTP_VARIABLE} to the address that the emulator prints."
            ) from error

    def _verify(self, request: HttpRequest, issuer: str | None) -> None:
        scheme, _, token = request.META.get("HTTP_AUTHORIZATION", "").partition(" ")
        if scheme.lower() != "bearer" or not token.strip():
            raise UntrustedRequest("The request carries no bearer token.")
        claims = oidc.verified_claims(
            token.strip(), self.audience, issuer, self.certificates
        )
        if claims.get("email") != self.service_account:
            raise UntrustedRequest("The token belongs to another account.")
        if claims.get("email_verified") is not True:
            raise UntrustedRequest("The token's email is not verified.")


def _own_origin(url: str) -> Origin:
    try:
        origin = origin_of(url)
    except ValueError:
        origin = None
    if origin is None or "?" in url or "#" in url:
        raise ConfigurationError(
            "CLOUDTASK['TARGET']['URL'] must be the address of this service, for "
            f'example "https://app.example", not {url!r}.'
        )
    return origin


def _is_allowed(origin: Origin | None) -> bool:
    return origin is not None and any(
        entry.matches(origin) for entry in conf.settings().allowed_urls
    )


@lru_cache(maxsize=8)
def _target_of(settings: conf.Settings) -> Target:
    made: Target = conf.backend("TARGET", settings.target)(settings.target)
    return made


_in_context: ContextVar[Target | None] = ContextVar("cloudtask.target", default=None)


def target() -> Target:
    """The target that CLOUDTASK["TARGET"] describes; raises ConfigurationError."""
    return _in_context.get() or _target_of(conf.settings())


@contextmanager
def using(chosen: Target) -> Iterator[None]:
    """Have `target` return `chosen` inside the block, in this context only."""
    before = _in_context.set(chosen)
    try:
        yield
    finally:
        _in_context.reset(before)


# Headers of a dispatch. Their names and meaning:
# https://cloud.google.com/tasks/docs/creating-http-target-tasks and
# .../creating-appengine-handlers, "Reading request headers".

PREFIXES = ("X-CloudTasks-", "X-AppEngine-")


class SentHeaders:
    """The headers of a request, looked up in `META` by names that are made only once.

    `request.headers` copies all of them and parses each name for each lookup, which
    takes as long as the rest of reading a delivery.
    """

    __slots__ = ("meta",)

    def __init__(self, request: HttpRequest) -> None:
        self.meta = request.META

    def get(self, name: str) -> str | None:
        value: str | None = self.meta.get(_meta_name(name))
        return value


@cache
def _meta_name(name: str) -> str:
    """WSGI's name of a header; those that this library asks for are a dozen."""
    return "HTTP_" + name.upper().replace("-", "_")


class Headers(Protocol):
    """A case-insensitive mapping of names to values, as far as it is read here."""

    def get(self, name: str, /) -> str | None: ...


def delivery_of(headers: Headers) -> Delivery:
    """The delivery that `headers` describe."""
    return Delivery(
        retries=_whole(headers, "TaskRetryCount") or 0,
        executions=_whole(headers, "TaskExecutionCount") or 0,
        eta=_seconds(headers, "TaskETA"),
        previous_response=_whole(headers, "TaskPreviousResponse"),
        retry_reason=header(headers, "TaskRetryReason"),
    )


@cache
def _names(name: str) -> tuple[str, ...]:
    return tuple(prefix + name for prefix in PREFIXES)


def header(headers: Headers, name: str) -> str | None:
    """The value of X-CloudTasks-<name> or X-AppEngine-<name>."""
    for prefixed in _names(name):
        value = headers.get(prefixed)
        if value:
            return value
    return None


def _whole(headers: Headers, name: str) -> int | None:
    text = header(headers, name) or ""
    return int(text) if text.isdecimal() and len(text) <= 9 else None


def _seconds(headers: Headers, name: str) -> float | None:
    text = header(headers, name) or ""
    if not text.replace(".", "", 1).isdecimal():
        return None
    seconds = float(text)
    return seconds if seconds < oidc.LATEST else None
