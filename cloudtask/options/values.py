"""How the value of each option is checked.

A check takes the name of the option and its value, and returns the value to keep. It
raises TypeError for a wrong type, and ValueError for a value out of range.
"""

from __future__ import annotations

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
        raise TypeError(f"Task option {name!r} must be {kind.__name__}, not {value!r}.")

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


_TAKEN = {
    "authorization": "the target's token takes its place",
    "connection": "it is about the connection of Cloud Tasks",
    "content-length": "Cloud Tasks computes it",
    "content-type": "it describes the body, which this library makes",
    "host": "Cloud Tasks takes it from the URL",
    "transfer-encoding": "it is about the connection of Cloud Tasks",
}
_RESERVED = ("x-appengine-", "x-cloudtasks-", "x-google-")


def refuse_taken(headers: Mapping[str, str]) -> None:
    """Raise ValueError for a header that would not arrive as it was given.

    Cloud Tasks ignores or replaces it: HttpRequest.headers, .oidc_token and
    AppEngineHttpRequest.headers in google/cloud/tasks/v2/target.proto; X-CloudTasks-*:
    https://cloud.google.com/tasks/docs/creating-http-target-tasks. User-Agent depends
    on the target, so `sending.limits` checks it.
    """
    for name in headers:
        folded = str(name).strip().casefold()
        reason = _TAKEN.get(folded)
        if folded.startswith(_RESERVED):
            reason = "Google alone sets such headers"
        if reason is not None:
            raise ValueError(f"headers can't have {name!r}: {reason}.")
