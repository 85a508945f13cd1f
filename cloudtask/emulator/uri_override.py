"""A queue's `UriOverride`, applied to the URL of a task.

Rules: proto comments on `UriOverride`.
"""

from __future__ import annotations

from urllib.parse import SplitResult, urlsplit

from cloudtask.emulator.protos import Message

_HTTP, _IF_NOT_EXISTS = 1, 1


def overridden_url(url: str, override: Message) -> str:
    """`url` with the queue's parts in place of the task's.

    In the mode IF_NOT_EXISTS only the parts that the task's URL lacks are taken.
    """
    parts = urlsplit(url)
    keep = override.uri_override_enforce_mode == _IF_NOT_EXISTS
    parts = parts._replace(netloc=_netloc(parts, override, keep))
    if override.HasField("scheme") and not keep:
        parts = parts._replace(scheme="http" if override.scheme == _HTTP else "https")
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
    parts = urlsplit(url)
    return parts._replace(netloc=_joined(parts.hostname or "", port)).geturl()


def _joined(host: str, port: int | None) -> str:
    shown = f"[{host}]" if ":" in host else host
    return f"{shown}:{port}" if port is not None else shown
