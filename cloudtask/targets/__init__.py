"""Which HTTP request Cloud Tasks must make, and how to trust it when it arrives."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Protocol

from django.http import HttpRequest
from django.urls import NoReverseMatch, get_script_prefix, reverse
from django.utils import translation

from cloudtask import conf, development
from cloudtask.addresses import Origin, origin_of
from cloudtask.discretion import discreet
from cloudtask.exceptions import (
    ConfigurationError,
    EnqueueError,
    UntrustedRequest,
)
from cloudtask.message import Message
from cloudtask.targets import oidc

CONTENT_TYPE = "application/octet-stream"
BOT_ACCOUNT_HINT = 'e.g. "tasks@my-project.iam.gserviceaccount.com"'


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
    """Where tasks are delivered to, and how deliveries are told from strangers."""

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
    "to the root URLconf, or set CLOUDTASK['PREFIX'] to the path where another service "
    "has it."
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

    With i18n_patterns it is that of LANGUAGE_CODE, whatever language is active. It
    begins with the prefix under which the current request, or FORCE_SCRIPT_NAME, has
    the site.
    """
    prefix = conf.settings().prefix
    if prefix is not None:
        return f"/{prefix.strip('/')}/run/{task}".replace("//", "/", 1)
    language = conf.language_code()
    return _reversed(task, conf.root_urlconf(), language, get_script_prefix())


def _origin(message: Message) -> Origin | None:
    """The origin of a call's `url`; None for a path. Raises EnqueueError."""
    url = message.options.url
    if url is None:
        return None
    try:
        return origin_of(url)
    except ValueError as error:
        raise _refused(message, f"its url {error}") from None


def _refused(message: Message, why: str) -> EnqueueError:
    return EnqueueError(
        f"Task {message.task} ({message.id}) for queue {message.queue!r} was refused: "
        f"{why}."
    )


def _headers(message: Message) -> dict[str, str]:
    return {"Content-Type": CONTENT_TYPE, **(message.options.headers or {})}


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
        conf.check_backend_options("TARGET", options, known)
        self.url = str(options.get("URL") or "").rstrip("/")
        self.origin = _own_origin(self.url)
        self.service_account: str | None = options.get("SERVICE_ACCOUNT")
        self.audience = str(options.get("AUDIENCE") or self.url)
        self.issuer: str | None = options.get("ISSUER")
        self.verifies = options.get("VERIFY", True) is not False
        if self.verifies and not self.service_account:
            raise ConfigurationError(
                "CLOUDTASK['TARGET']['SERVICE_ACCOUNT'] must be the account that signs "
                f"the deliveries, {BOT_ACCOUNT_HINT}."
            )

    def request_for(self, message: Message) -> HttpDispatch:
        """The request, with a token for the origin that is called, and for no other.

        Beside an emulator it leads to this machine: see `development.local_url`.
        """
        origin = _origin(message)
        path = message.options.url or handler_path(message.task)
        is_ours = origin is None or origin == self.origin
        if conf.emulator_host() and origin is not None:
            path = self._near(message, origin, path, is_ours=is_ours)
        if not is_ours and not _is_allowed(origin):
            raise _refused(
                message,
                f"its url leads to {origin}. If that host may get the call and its "
                "arguments, add it to CLOUDTASK['ALLOWED_URLS']",
            )
        audience = self.audience if is_ours else str(origin)
        return HttpDispatch(
            url=self.here + path if path.startswith("/") else path,
            headers=_headers(message),
            service_account=self.service_account,
            audience=audience if self.service_account else None,
        )

    @property
    def here(self) -> str:
        """Where the service is reached: URL, and beside an emulator this machine."""
        if not conf.emulator_host():
            return self.url
        return development.local_url(self.url, self.origin.host, sys.argv)

    def _near(
        self, message: Message, origin: Origin, url: str, *, is_ours: bool
    ) -> str:
        """The path or address of a call beside an emulator, from where no production
        is to be reached. Raises EnqueueError."""
        if development.is_near(origin.host):
            return url
        if not is_ours:
            raise _refused(
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
                f"{error} Beside an emulator, tokens must be those of {issuer}: set "
                f"{development.HTTP_VARIABLE} to the address that the emulator prints."
            ) from error

    def _verify(self, request: HttpRequest, issuer: str | None) -> None:
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
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
    if origin is None:
        raise ConfigurationError(
            "CLOUDTASK['TARGET']['URL'] must be the address of this service, for "
            f'example "https://app.example", not {url!r}.'
        )
    return origin


def _is_allowed(origin: Origin | None) -> bool:
    return origin is not None and any(
        entry.matches(origin) for entry in conf.settings().allowed_urls
    )


class AppEngineTarget:
    """The App Engine application of the project; trust rests on stripped headers.

    Options: SERVICE and VERSION (default: the running ones), ON_APP_ENGINE (default:
    found out from the environment), VERIFY (True). App Engine removes X-AppEngine-*
    from requests of strangers, nothing else does: see
    https://cloud.google.com/tasks/docs/creating-appengine-handlers.
    """

    min_deadline = 15.0
    max_deadline = 86_415.0
    default_deadline = 600.0  # automatic scaling; others allow 24 hours

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
            # The running version means nothing in another service.
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
        """Whether a verified request is known to come from App Engine. Beside an
        emulator it is not: nothing removes the headers there."""
        return self.on_app_engine or not self.verifies

    def request_for(self, message: Message) -> AppEngineDispatch:
        options = message.options
        elsewhere = options.service not in (None, self.service)
        origin = _origin(message)
        if origin is not None:
            raise _refused(
                message,
                "App Engine tasks take a path as their url, such as /tasks/, and no "
                f"address such as {origin}",
            )
        return AppEngineDispatch(
            relative_uri=options.url or handler_path(message.task),
            headers=_headers(message),
            service=options.service or self.service,
            version=options.version or (None if elsewhere else self.version),
            instance=options.instance,
        )

    def verify(self, request: HttpRequest) -> None:
        if not self.verifies:
            return
        # An application that talks to an emulator is not deployed: nothing strips the
        # headers for it, and the signature still guards what runs.
        if not self.on_app_engine and not conf.emulator_host():
            raise UntrustedRequest(
                "X-AppEngine-* headers prove nothing off App Engine."
            )
        if not request.headers.get("X-AppEngine-QueueName"):
            raise UntrustedRequest("The request does not come from a task queue.")


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
    """Have `target` return `chosen` inside the block: in this context, no other."""
    before = _in_context.set(chosen)
    try:
        yield
    finally:
        _in_context.reset(before)


def on_app_engine() -> bool:
    """Whether the process runs on App Engine, standard or flexible."""
    environ = os.environ
    return environ.get("GAE_ENV") == "standard" or bool(
        environ.get("GAE_INSTANCE") and environ.get("GAE_SERVICE")
    )
