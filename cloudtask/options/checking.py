"""How the value of each option is checked.

A check takes the name of the option and its value, and returns the value to keep. It
raises TypeError for a wrong type, and ValueError for a value out of range.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Any

from django.utils.timezone import is_naive

from cloudtask.options.durations import Backoff, as_timedelta

Check = Callable[[str, Any], Any]


def is_a(kind: type) -> Check:
    """A check that the value is a `kind`."""

    def check(name: str, value: Any) -> Any:
        # True is an int to Python, though no number of attempts.
        if isinstance(value, kind) and (kind is not int or value is not True):
            return value
        # Its type, since the value may be a secret.
        found = type(value).__name__
        raise TypeError(f"Task option {name!r} must be {kind.__name__}, not {found}.")

    return check


def duration(name: str, value: Any) -> timedelta:
    return as_timedelta(value, name)


def moment(name: str, value: Any) -> datetime:
    found: datetime = is_a(datetime)(name, value)
    if is_naive(found):
        raise ValueError(f"{name} must be an aware datetime, not {value!r}.")
    return found


def attempts(name: str, value: Any) -> int:
    count: int = is_a(int)(name, value)
    if count < 1:
        raise ValueError(f"{name} must be 1 or more: {value}.")
    return count


def backoff(name: str, value: Any) -> Any:
    if isinstance(value, Backoff) or callable(value):
        return value
    raise TypeError(f"{name} must be a Backoff or a function, not {value!r}.")


def unique(name: str, value: Any) -> Any:
    if isinstance(value, bool) or callable(value):
        return value
    raise TypeError(f"{name} must be a bool or a function, not {value!r}.")


_APP_ENGINE_ID = re.compile(r"[A-Za-z0-9]([A-Za-z0-9-]{0,98}[A-Za-z0-9])?")


def app_engine_id(name: str, value: Any) -> str:
    """A service, version or instance: it becomes a part of a host name."""
    found: str = is_a(str)(name, value)
    if not _APP_ENGINE_ID.fullmatch(found):
        raise ValueError(
            f"{name} must be 1 to 100 letters, digits and hyphens, and no hyphen at "
            f"either end, not {value[:40]!r}."
        )
    return found


_HEADER = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")  # a token of RFC 9110
_TAKEN = {
    "authorization": "the target's token takes its place",
    "connection": "it is about the connection of Cloud Tasks",
    "content-encoding": "it describes the body, which this library makes",
    "content-length": "Cloud Tasks computes it",
    "content-type": "it describes the body, which this library makes",
    "host": "Cloud Tasks takes it from the URL",
    "transfer-encoding": "it is about the connection of Cloud Tasks",
}
_RESERVED = ("x-appengine-", "x-cloudtasks-", "x-cloudscheduler", "x-google-")


def check_headers(headers: Mapping[str, str]) -> None:
    """Raise ValueError for a header that can't be sent, or would not arrive as given.

    Cloud Tasks ignores or replaces it: HttpRequest.headers, .oidc_token and
    AppEngineHttpRequest.headers in google/cloud/tasks/v2/target.proto; X-CloudTasks-*:
    https://cloud.google.com/tasks/docs/creating-http-target-tasks. User-Agent depends
    on the target, so `sending.limits` checks it.
    """
    for name, value in headers.items():
        # Servers of the handler may read an underscore as a hyphen.
        folded = str(name).strip().casefold().replace("_", "-")
        reason = _TAKEN.get(folded)
        if folded.startswith(_RESERVED):
            reason = "Google alone sets such headers"
        if reason is not None:
            raise ValueError(f"headers can't have {name!r}: {reason}.")
        if type(name) is not str or not _HEADER.fullmatch(name):
            raise ValueError(
                f"A header can't be named {name!r}: a name has letters, digits and "
                "some signs, no space."
            )
        if type(value) is not str or not value.replace("\t", " ").isprintable():
            raise ValueError(f"The header {name!r} must be a line of str.")
