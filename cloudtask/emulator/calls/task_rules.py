"""Checks a new task, and fills in the defaults of the service.

Limits come from the proto comments on `Task`, `HttpRequest` and `AppEngineHttpRequest`
and from the quota page. The maintainers of aertje/cloud-tasks-emulator measured the
size limit and the dispatch deadlines on the real service.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from urllib.parse import urlsplit

from cloudtask.emulator.protocol import Message, errors, names, put_time, seconds_of

MAX_TASK_BYTES = (1 << 20) - 7
MAX_URL = 2083
MAX_HEADERS_BYTES = 80 * 1024
MAX_AHEAD = 720 * 3600.0
HTTP_DEADLINES = (15.0, 1800.0)
APP_ENGINE_DEADLINES = (15.0, 86_415.0)
DEFAULT_DEADLINE = 600.0
HTTP_AGENT = "Google-Cloud-Tasks"
APP_ENGINE_AGENT = "AppEngine-Google; (+http://code.google.com/appengine)"

_POST = 1
_HTTP_BODY_METHODS = frozenset({1, 4, 6})  # POST, PUT, PATCH
_APP_ENGINE_BODY_METHODS = frozenset({1, 4})  # POST, PUT
_METHODS = {2: "GET", 3: "HEAD", 5: "DELETE", 6: "PATCH", 7: "OPTIONS"}
_OUTPUT_ONLY = (
    "create_time",
    "dispatch_count",
    "response_count",
    "first_attempt",
    "last_attempt",
    "view",
)
_HEADER_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_UNSAFE_VALUE = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")


def task_id_of(message: Message, queue_name: str) -> str:
    """The id that the client chose, checked; "" when it chose none."""
    name: str = message.name
    if not name:
        return ""
    prefix = f"{queue_name}/tasks/"
    if name.startswith(prefix):
        return names.check_task_id(name[len(prefix) :])
    other, _ = names.split_task_name(name)
    raise errors.invalid(
        f"The queue name from request ('{queue_name}') must be the same as the queue "
        f"name in the named task ('{other}')."
    )


def complete(
    message: Message, *, name: str, now: float, project: str, plain_tokens: bool
) -> float:
    """Check a new task, turn it into its stored form in place, return its eta.

    With `plain_tokens`, tokens may go to any http:// URL, else only to this machine's.
    Raises `ApiError` INVALID_ARGUMENT when the service would refuse the task.
    """
    kind = message.WhichOneof("message_type")
    if kind is None:
        raise errors.invalid(
            "Task must have either an HttpRequest or an AppEngineHttpRequest."
        )
    message.name = name
    for field in _OUTPUT_ONLY:
        message.ClearField(field)
    if kind == "http_request":
        _complete_http(message, plain_tokens)
    else:
        _complete_app_engine(message, project)
    message.create_time.seconds = int(now)
    eta = _eta(message, now)
    put_time(message.schedule_time, eta)
    if message.ByteSize() > MAX_TASK_BYTES:
        raise errors.invalid("Task size too large")
    return eta


def deadline_of(message: Message) -> float:
    """The seconds that the target has for its response."""
    return seconds_of(message.dispatch_deadline) or DEFAULT_DEADLINE


def check_headers(headers: Mapping[str, str]) -> None:
    """Raise `ApiError` INVALID_ARGUMENT for headers that can't be sent."""
    size = 0
    for name, value in headers.items():
        size += len(name) + len(value)
        if _HEADER_NAME.fullmatch(name) is None or _UNSAFE_VALUE.search(value):
            raise errors.invalid(f'Header "{name}" is not a valid HTTP header.')
    if size >= MAX_HEADERS_BYTES:
        raise errors.invalid("The size of the headers must be less than 80KB.")


def _eta(message: Message, now: float) -> float:
    if not message.HasField("schedule_time"):
        return now
    eta = seconds_of(message.schedule_time)
    if eta - now > MAX_AHEAD:
        raise errors.invalid(
            f"The Task.scheduleTime, {_shown(eta)}, is too far in the future. "
            "Schedule time must be no more than 720h in the future."
        )
    return max(eta, now)


def _shown(moment: float) -> str:
    try:
        return datetime.fromtimestamp(int(moment), UTC).isoformat()
    except (OverflowError, ValueError, OSError):
        return f"{moment:.0f}"


def _complete_http(message: Message, plain_tokens: bool) -> None:
    request = message.http_request
    if not request.url:
        raise errors.invalid("HttpRequest.url is required.")
    if not request.url.startswith(("http://", "https://")):
        raise errors.invalid("HttpTarget.url must start with 'http://' or 'https://'.")
    if len(request.url) > MAX_URL:
        raise errors.invalid(
            f"HttpRequest.url must be no longer than {MAX_URL} characters."
        )
    _complete_method("HttpRequest", request, _HTTP_BODY_METHODS)
    if request.headers:
        check_headers(request.headers)
    _put_agent(request, HTTP_AGENT)
    _check_tokens(request, plain_tokens)
    if not message.HasField("dispatch_deadline"):
        message.dispatch_deadline.seconds = int(DEFAULT_DEADLINE)
    _check_deadline(message, HTTP_DEADLINES, "[15s, 30m]")


def _check_tokens(request: Message, plain_tokens: bool) -> None:
    kind = request.WhichOneof("authorization_header")
    if kind is None:
        return
    if not getattr(request, kind).service_account_email:
        field = "oidcToken" if kind == "oidc_token" else "oauthToken"
        raise errors.invalid(f"HttpRequest.{field}.serviceAccountEmail is required.")
    if not (plain_tokens or request.url.startswith("https://")):
        _check_is_here(request.url)


def _check_is_here(url: str) -> None:
    """The service sends tokens to https:// alone, which local handlers rarely speak."""
    try:
        host = urlsplit(url).hostname or ""
    except ValueError:
        host = ""
    if not names.is_loopback(host):
        raise errors.invalid(
            "HttpRequest.url must start with 'https://' for request with "
            "HttpRequest.authorization_header"
        )


def _put_agent(request: Message, agent: str) -> None:
    """Store the User-Agent, as the service does when it takes a task."""
    for name in [each for each in request.headers if each.lower() == "user-agent"]:
        del request.headers[name]
    request.headers["User-Agent"] = agent


def _complete_app_engine(message: Message, project: str) -> None:
    request = message.app_engine_http_request
    request.relative_uri = request.relative_uri or "/"
    _check_relative_uri(request.relative_uri)
    _complete_method("AppEngineHttpRequest", request, _APP_ENGINE_BODY_METHODS)
    if request.headers:
        check_headers(request.headers)
    if request.body:
        _describe_body(request)
    own = (v for k, v in request.headers.items() if k.lower() == "user-agent")
    _put_agent(request, " ".join([*own, APP_ENGINE_AGENT]))
    complete_routing(request.app_engine_routing, project)
    if message.HasField("dispatch_deadline") and seconds_of(message.dispatch_deadline):
        _check_deadline(message, APP_ENGINE_DEADLINES, "[15s, 24h15s]")


def _check_relative_uri(uri: str) -> None:
    if not uri.startswith("/"):
        raise errors.invalid('AppEngineHttpRequest.relativeUri must begin with "/".')
    if " " in uri or _UNSAFE_VALUE.search(uri):
        raise errors.invalid("AppEngineHttpRequest.relativeUri must have no spaces.")
    if len(uri) > MAX_URL:
        raise errors.invalid(
            "AppEngineHttpRequest.relativeUri must be no longer than "
            f"{MAX_URL} characters."
        )


def _describe_body(request: Message) -> None:
    """The headers that the service stores with a body."""
    if not any(name.lower() == "content-type" for name in request.headers):
        request.headers["Content-Type"] = "application/octet-stream"
    request.headers["Content-Length"] = str(len(request.body))


def complete_routing(routing: Message, project: str) -> None:
    """Fill in the host to which App Engine would send the request."""
    parts = (routing.instance, routing.version, routing.service)
    host = f"{project.replace(':', '.')}.appspot.com"
    routing.host = ".".join([*filter(None, parts), host])


def _complete_method(owner: str, request: Message, with_body: frozenset[int]) -> None:
    request.http_method = request.http_method or _POST
    if request.body and request.http_method not in with_body:
        method = _METHODS.get(request.http_method, "This method")
        raise errors.invalid(
            f"{owner}.body is not allowed with {owner}.httpMethod {method}."
        )


def _check_deadline(message: Message, allowed: tuple[float, float], shown: str) -> None:
    shortest, longest = allowed
    if not shortest <= seconds_of(message.dispatch_deadline) <= longest:
        raise errors.invalid(f"Task.dispatchDeadline must be between {shown}.")
