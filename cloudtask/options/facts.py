"""Defines the parts of an option: its facts, its checks, and the values it may have.

A check takes the name of the option and its value, and returns the value to keep. It
raises TypeError for a wrong type, and ValueError for a value out of range.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import Field, dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from django.utils.timezone import is_naive

from cloudtask import quotas
from cloudtask.discretion import shown

if TYPE_CHECKING:
    from cloudtask.context import TaskContext

Check = Callable[[str, Any], Any]

_KEY = "option"  # in the metadata of a field of `Options`


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """One option: how it is checked, where it may stand, and what the docs say of it.

    `only_in_using` keeps it out of `@task`. `travels` puts it into the message: the
    handler or a successor of the message needs it. `deferred` holds its names in
    `cloudtask.deferred.defer`. `not_in_django_tasks` is the reason why the OPTIONS of a
    backend of django.tasks lack it. `meaning` and `shown` are its line in
    docs/reference/options.md; without `shown` that line has the repr of the default.
    """

    name: str
    default: Any
    check: Check
    meaning: str
    shown: str | None = None
    only_in_using: bool = False
    travels: bool = False
    deferred: tuple[str, ...] = ()
    not_in_django_tasks: str = ""

    def checked(self, value: Any) -> Any:
        """The value to keep; raises TypeError or ValueError.

        A value that is the default is not checked.
        """
        if value is self.default:
            return value
        return self.check(self.name, value)


def option(
    default: Any, check: Check, meaning: str, *, repr: bool = True, **facts: Any
) -> Any:
    """A field of `Options` that also holds the facts about the option.

    With `repr=False` the option is not in the repr of `Options`: it may hold secrets.
    """
    facts |= {"default": default, "check": check, "meaning": meaning}
    return field(default=default, repr=repr, metadata={_KEY: facts})


def option_of(declared: Field[Any]) -> Option | None:
    """The option that a field declares, if it is one."""
    facts = declared.metadata.get(_KEY)
    return None if facts is None else Option(name=declared.name, **facts)


# Values


def as_timedelta(value: timedelta | float, what: str) -> timedelta:
    """A duration that was given as a timedelta or in seconds.

    Raises TypeError or ValueError; `what` names the value in the message.
    """
    if isinstance(value, timedelta):
        return value
    if isinstance(value, int | float) and not isinstance(value, bool):
        try:
            return timedelta(seconds=value)
        except (ValueError, OverflowError) as error:
            raise ValueError(f"{what} is not a duration: {shown(value)}.") from error
    raise TypeError(f"{what} must be a timedelta or seconds, not {shown(value)}.")


@dataclass(frozen=True, slots=True, init=False)
class Backoff:
    """Waiting times between attempts, in the terms of a Cloud Tasks queue.

    The wait before retry n doubles `doublings` times from `min`, then grows by
    `min * 2**doublings` a step, and never exceeds `max` (RetryConfig in
    google/cloud/tasks/v2/queue.proto). `min` and `max` are given as timedeltas or in
    seconds. Raises TypeError or ValueError for values that make no backoff.
    """

    min: timedelta
    max: timedelta
    doublings: int

    def __init__(
        self,
        min: timedelta | float = timedelta(seconds=0.1),
        max: timedelta | float = timedelta(hours=1),
        doublings: int = 16,
    ) -> None:
        object.__setattr__(self, "min", as_timedelta(min, "Backoff.min"))
        object.__setattr__(self, "max", as_timedelta(max, "Backoff.max"))
        object.__setattr__(self, "doublings", doublings)
        if type(doublings) is not int:
            raise TypeError(
                f"Backoff.doublings must be an int, not {shown(doublings)}."
            )
        # RetryConfig.max_doublings is an int32.
        is_right = timedelta(0) <= self.min <= self.max and 0 <= doublings < 2**31
        if not is_right:
            raise ValueError(
                f"Backoff needs 0 <= min <= max, 0 <= doublings < 2**31: {self}."
            )

    def delay(self, retry: int) -> timedelta:
        """The wait before retry number `retry`, counted from 1."""
        most, step = self.max.total_seconds(), self.min.total_seconds()
        # Floats and at most 64 doublings, since a timedelta overflows soon.
        seconds = step * 2.0 ** min(retry - 1, self.doublings, 64)
        steps = max(0, retry - 1 - self.doublings)
        seconds += steps * step * 2.0 ** min(self.doublings, 64)
        return timedelta(seconds=seconds) if seconds < most else self.max


BackoffFunction = Callable[[BaseException, "TaskContext"], "float | timedelta | None"]


# Checks


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


def kept(name: str, value: Any) -> timedelta:
    """How long something is kept: above 0."""
    found = as_timedelta(value, name)
    if found <= timedelta(0):
        raise ValueError(f"{name} must be above 0, not {shown(value)}.")
    return found


def moment(name: str, value: Any) -> datetime:
    found: datetime = is_a(datetime)(name, value)
    if is_naive(found):
        raise ValueError(f"{name} must be an aware datetime, not {shown(value)}.")
    return found


def attempts(name: str, value: Any) -> int:
    count: int = is_a(int)(name, value)
    if not 1 <= count < 2**31:  # RetryConfig.max_attempts is an int32
        raise ValueError(f"{name} must be 1 or more, and below 2**31: {shown(value)}.")
    return count


def backoff(name: str, value: Any) -> Any:
    if isinstance(value, Backoff) or callable(value):
        return value
    raise TypeError(f"{name} must be a Backoff or a function, not {shown(value)}.")


def unique(name: str, value: Any) -> Any:
    if isinstance(value, bool) or callable(value):
        return value
    raise TypeError(f"{name} must be a bool or a function, not {shown(value)}.")


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
_HOP = "it is about the connection of Cloud Tasks"
_BODY = "it describes the body, which this library makes"
_TAKEN = {
    "authorization": "the target's token takes its place",
    "connection": _HOP,
    "content-encoding": _BODY,
    "content-length": "Cloud Tasks computes it",
    "content-type": _BODY,
    "cookie": "a call belongs to no visitor, and lists of the queue would show it",
    "expect": _HOP,
    "host": "Cloud Tasks takes it from the URL",
    "keep-alive": _HOP,
    "te": _HOP,
    "trailer": _HOP,
    "transfer-encoding": _HOP,
    "upgrade": _HOP,
}
_RESERVED = {
    "proxy-": _HOP,
    **dict.fromkeys(
        ("x-appengine-", "x-cloudtasks-", "x-cloudscheduler", "x-google-"),
        "Google alone sets such headers",
    ),
}


def check_headers(headers: Mapping[str, str]) -> None:
    """Raise ValueError for a header that can't be sent, or would not arrive as given.

    Cloud Tasks ignores or replaces it: HttpRequest.headers, .oidc_token and
    AppEngineHttpRequest.headers in google/cloud/tasks/v2/target.proto; X-CloudTasks-*:
    https://cloud.google.com/tasks/docs/creating-http-target-tasks. Fields of a
    connection: RFC 9110, section 7.6.1. User-Agent depends on the target, so
    `sending.limits` checks it.
    """
    for name, value in headers.items():
        # Servers of the handler may read an underscore as a hyphen.
        folded = str(name).strip().casefold().replace("_", "-")
        reserved = (why for start, why in _RESERVED.items() if folded.startswith(start))
        if reason := _TAKEN.get(folded) or next(reserved, None):
            raise ValueError(f"headers can't have {name!r:.60}: {reason}.")
        _check_header(name, value)
    if len({str(name).casefold() for name in headers}) < len(headers):
        raise ValueError("headers has the same name twice: case makes no difference.")
    size = sum(len(name) + len(value) for name, value in headers.items())
    if size > quotas.HEADERS:
        raise ValueError(
            f"headers takes {size:,} bytes; Cloud Tasks takes {quotas.HEADERS:,}."
        )


def _check_header(name: Any, value: Any) -> None:
    if type(name) is not str or not _HEADER.fullmatch(name):
        raise ValueError(
            f"A header can't be named {name!r:.60}: a name has letters, digits and "
            "some signs, no space."
        )
    if "_" in name:
        raise ValueError(
            f"A header can't be named {name!r:.60}: servers drop names with an "
            f"underscore. Write {name.replace('_', '-')!r:.60}."
        )
    if type(value) is not str or not value.replace("\t", " ").isprintable():
        raise ValueError(f"The header {name!r:.60} must be a line of str.")
    if not value.isascii():
        raise ValueError(
            f"The header {name!r:.60} must be ASCII: servers disagree about other "
            "characters. Encode it, for example with urllib.parse.quote."
        )
    if value != value.strip():
        raise ValueError(
            f"The header {name!r:.60} would arrive without its outer spaces."
        )


# Hints for misspelled names


def nearest(name: str, known: Iterable[str], others: Iterable[str] = ()) -> str:
    """The name closest to a misspelt one, else all that are known, for an error text.

    `others` are names of another place, which may be meant too.
    """
    listed = sorted(known)
    names = {one.casefold(): one for one in (*others, *listed)}
    if not names:
        return "there are none."
    close = difflib.get_close_matches(name.casefold(), names, n=1, cutoff=0.5)
    if close:
        return f"did you mean {names[close[0]]!r}?"
    return "known are " + ", ".join(listed) + "."


def check_known(call: str, given: Iterable[str], known: Collection[str]) -> None:
    """Raise TypeError, with the nearest known one, for a keyword that `call` lacks."""
    for name in given:
        if name not in known:
            raise TypeError(f"{call} takes no {name!r:.60}; {nearest(name, known)}")
