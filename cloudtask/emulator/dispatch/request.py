"""Builds the HTTP request of a dispatch.

Header rules come from the proto comments on `HttpRequest.headers` and
`AppEngineHttpRequest.headers`, URL rules from those on `UriOverride`. The maintainers
of aertje/cloud-tasks-emulator recorded the counts and the headers of retries from the
real service.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol
from urllib.parse import SplitResult, urlsplit

from cloudtask.emulator.calls import HTTP_AGENT, deadline_of
from cloudtask.emulator.protocol import Message
from cloudtask.emulator.queues import HTTP_NO_RESPONSE, Dispatch, Queue

_METHODS = ("POST", "POST", "GET", "HEAD", "PUT", "DELETE", "PATCH", "OPTIONS")
_BODYLESS = frozenset({"GET", "HEAD", "DELETE", "OPTIONS"})
_HTTP_SCHEME, _IF_NOT_EXISTS = 1, 1  # of the enums in UriOverride
_COMPUTED = frozenset({"host", "content-length", "connection", "transfer-encoding"})


class Tokens(Protocol):
    """Makes the tokens of the service accounts of tasks."""

    def oidc(self, email: str, audience: str) -> str: ...
    def oauth(self, email: str, scope: str) -> str: ...


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A request that is ready to send; `deadline` is in seconds."""

    method: str
    url: str = field(repr=False)
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)
    deadline: float


@dataclass(frozen=True, slots=True)
class Target:
    """The base URLs of App Engine tasks: one, and others for some services."""

    url: str
    services: Mapping[str, str] = field(default_factory=dict)

    def base(self, routing: Message) -> str:
        return self.services.get(routing.service, self.url).rstrip("/")


def outgoing(
    queue: Queue,
    dispatch: Dispatch,
    *,
    target: Target,
    tokens: Tokens,
    port: int | None = None,
) -> Outgoing:
    """The request for an attempt; `port` replaces the target's (RunTask "?port=")."""
    message = dispatch.task.message
    if dispatch.task.is_app_engine:
        return _to_app_engine(queue, dispatch, message, target, port)
    return _to_http(queue, dispatch, message, tokens, port)


def _to_http(
    queue: Queue,
    dispatch: Dispatch,
    message: Message,
    tokens: Tokens,
    port: int | None,
) -> Outgoing:
    request, override = message.http_request, queue.config.http_target
    url = request.url
    method = _METHODS[request.http_method]
    headers = _allowed(request.headers, ("x-google-", "x-appengine-", "x-cloudtasks-"))
    if override is not None:
        url = overridden_url(url, override.uri_override)
        method = _METHODS[override.http_method or request.http_method]
        _override_headers(headers, override)
    if port is not None:
        url = with_port(url, port)
    _put(headers, "User-Agent", HTTP_AGENT)
    _authorize(headers, request, override, url, tokens)
    headers.update(_http_facts(queue, dispatch))
    body = b"" if method in _BODYLESS else request.body
    return Outgoing(method, url, headers, body, deadline_of(message))


def _to_app_engine(
    queue: Queue,
    dispatch: Dispatch,
    message: Message,
    target: Target,
    port: int | None,
) -> Outgoing:
    request = message.app_engine_http_request
    base = target.base(queue.config.routing or request.app_engine_routing)
    if port is not None:
        base = with_port(base, port)
    headers = _allowed(request.headers, ("x-google-", "x-appengine-"))
    headers.update(_app_engine_facts(queue, dispatch))
    return Outgoing(
        _METHODS[request.http_method],
        base + request.relative_uri,
        headers,
        request.body,
        deadline_of(message),
    )


def _http_facts(queue: Queue, dispatch: Dispatch) -> dict[str, str]:
    """The execution count leaves out 5xx; no response counts as 504."""
    facts = {
        "X-CloudTasks-QueueName": queue.id,
        "X-CloudTasks-TaskName": dispatch.task.id,
        "X-CloudTasks-TaskRetryCount": str(dispatch.number - 1),
        "X-CloudTasks-TaskExecutionCount": str(dispatch.execution_count),
        "X-CloudTasks-TaskETA": f"{dispatch.schedule_time:f}",
    }
    if dispatch.previous is not None:
        status = dispatch.previous.status or HTTP_NO_RESPONSE
        facts["X-CloudTasks-TaskPreviousResponse"] = str(status)
        facts["X-CloudTasks-TaskRetryReason"] = ""
    return facts


def _app_engine_facts(queue: Queue, dispatch: Dispatch) -> dict[str, str]:
    """The execution count has every response; no response counts as 0."""
    facts = {
        "X-AppEngine-QueueName": queue.id,
        "X-AppEngine-TaskName": dispatch.task.id,
        "X-AppEngine-TaskRetryCount": str(dispatch.number - 1),
        "X-AppEngine-TaskExecutionCount": str(dispatch.response_count),
        "X-AppEngine-TaskETA": f"{dispatch.schedule_time:f}",
    }
    if dispatch.previous is not None:
        status = dispatch.previous.status
        facts["X-AppEngine-TaskPreviousResponse"] = str(status or 0)
        reason = "App Error" if status else "Instance Unavailable"
        facts["X-AppEngine-TaskRetryReason"] = reason
    return facts


def _allowed(headers: Mapping[str, str], reserved: tuple[str, ...]) -> dict[str, str]:
    return {
        name: value
        for name, value in headers.items()
        if name.lower() not in _COMPUTED and not name.lower().startswith(reserved)
    }


def _override_headers(headers: dict[str, str], override: Message) -> None:
    for each in override.header_overrides:
        name = each.header.key
        if name.lower() in _COMPUTED or name.lower().startswith("x-cloudtasks-"):
            continue
        _put(headers, name, each.header.value)


def _authorize(
    headers: dict[str, str],
    request: Message,
    override: Message | None,
    url: str,
    tokens: Tokens,
) -> None:
    holder = request
    if override is not None and override.WhichOneof("authorization_header"):
        holder = override
    kind = holder.WhichOneof("authorization_header")
    if kind == "oidc_token":
        token = holder.oidc_token
        bearer = tokens.oidc(token.service_account_email, token.audience or url)
    elif kind == "oauth_token":
        token = holder.oauth_token
        bearer = tokens.oauth(token.service_account_email, token.scope)
    else:
        return
    _put(headers, "Authorization", f"Bearer {bearer}")


def _put(headers: dict[str, str], name: str, value: str) -> None:
    """Set a header, and remove the same one in another case."""
    wanted = name.lower()
    for existing in [each for each in headers if each.lower() == wanted]:
        del headers[existing]
    headers[name] = value


def overridden_url(url: str, override: Message) -> str:
    """`url` with the queue's parts in place of the task's.

    In the mode IF_NOT_EXISTS only the parts that the task's URL lacks are taken.
    """
    parts = urlsplit(url)
    keep = override.uri_override_enforce_mode == _IF_NOT_EXISTS
    parts = parts._replace(netloc=_netloc(parts, override, keep))
    if override.HasField("scheme") and not keep:
        parts = parts._replace(
            scheme="http" if override.scheme == _HTTP_SCHEME else "https"
        )
    if override.HasField("path_override") and not (keep and parts.path.strip("/")):
        path = override.path_override.path
        parts = parts._replace(path=path and "/" + path.lstrip("/"))
    if override.HasField("query_override") and not (keep and parts.query):
        parts = parts._replace(query=override.query_override.query_params)
    return parts.geturl()


def _netloc(parts: SplitResult, override: Message, keep: bool) -> str:
    host, port = parts.hostname or "", parts.port
    if override.HasField("host") and not keep:
        host = override.host
    if override.HasField("port") and not (keep and port is not None):
        port = override.port or None
    return _joined(host, port)


def with_port(url: str, port: int) -> str:
    """`url` with another port."""
    parts = urlsplit(url)
    return parts._replace(netloc=_joined(parts.hostname or "", port)).geturl()


def _joined(host: str, port: int | None) -> str:
    shown = f"[{host}]" if ":" in host else host
    return f"{shown}:{port}" if port is not None else shown
