"""The options of a task: how it is enqueued and run."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from datetime import datetime, timedelta
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Self

from django.utils.timezone import is_naive

if TYPE_CHECKING:
    from cloudtask.context import TaskContext


def nearest(name: str, known: Iterable[str]) -> str:
    """A hint for a misspelt name: the closest known one, else all of them."""
    names = {one.casefold(): one for one in sorted(known)}
    if not names:
        return "there are none."
    close = difflib.get_close_matches(name.casefold(), names, n=1, cutoff=0.5)
    if close:
        return f"did you mean {names[close[0]]!r}?"
    return "known are " + ", ".join(names.values()) + "."


def as_timedelta(value: timedelta | float, what: str) -> timedelta:
    """A duration given as a timedelta or as seconds; `what` names it in the error."""
    if isinstance(value, timedelta):
        return value
    if isinstance(value, int | float) and not isinstance(value, bool):
        try:
            return timedelta(seconds=value)
        except (ValueError, OverflowError) as error:
            raise ValueError(f"{what} is no duration: {value!r}.") from error
    raise TypeError(f"{what} must be a timedelta or seconds, not {value!r}.")


@dataclass(frozen=True, slots=True)
class Backoff:
    """Waiting times between attempts, in the terms of a Cloud Tasks queue.

    The wait before retry n doubles `doublings` times from `min`, then grows by
    `min * 2**doublings` a step, and never exceeds `max` (RetryConfig in
    google/cloud/tasks/v2/queue.proto).
    """

    min: timedelta = timedelta(seconds=0.1)
    max: timedelta = timedelta(hours=1)
    doublings: int = 16

    def __post_init__(self) -> None:
        object.__setattr__(self, "min", as_timedelta(self.min, "Backoff.min"))
        object.__setattr__(self, "max", as_timedelta(self.max, "Backoff.max"))
        if type(self.doublings) is not int:
            raise TypeError(
                f"Backoff.doublings must be an int, not {self.doublings!r}."
            )
        # RetryConfig.max_doublings is an int32.
        is_right = timedelta(0) <= self.min <= self.max and 0 <= self.doublings < 2**31
        if not is_right:
            raise ValueError(
                f"Backoff needs 0 <= min <= max, 0 <= doublings < 2**31: {self}."
            )

    def delay(self, retry: int) -> timedelta:
        """The wait before retry number `retry`, counted from 1."""
        most, step = self.max.total_seconds(), self.min.total_seconds()
        # Floats, and few doublings: a timedelta overflows soon.
        seconds = step * 2.0 ** min(retry - 1, self.doublings, 64)
        steps = max(0, retry - 1 - self.doublings)
        seconds += steps * step * 2.0 ** min(self.doublings, 64)
        return timedelta(seconds=seconds) if seconds < most else self.max


BackoffFunction = Callable[[BaseException, "TaskContext"], "float | timedelta | None"]

ONLY_IN_USING = frozenset({"countdown", "eta", "name"})
DURATIONS = ("countdown", "timeout")


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How a task is enqueued and run; the names that `@task` and `.using` take.

    A backoff function of `@task` stays with the task; one of `.using` travels, by its
    import path, which `carries_backoff` tells.
    """

    queue: str = "default"
    small: bool = False
    countdown: timedelta | None = None
    eta: datetime | None = None
    name: str | None = None
    unique: bool | Callable[..., Any] = False
    max_attempts: int | None = None
    backoff: Backoff | BackoffFunction | None = None
    timeout: timedelta | None = None
    atomic: bool = False
    transactional: bool | None = None
    database: str = "default"
    wipe_related_caches: bool = True
    service: str | None = None
    version: str | None = None
    instance: str | None = None
    url: str | None = None
    headers: Mapping[str, str] | None = None
    carries_backoff: bool = False
    travelling: Mapping[str, Any] = field(
        init=False, repr=False, compare=False, default_factory=dict
    )

    def __post_init__(self) -> None:
        for name in DURATIONS:
            value = getattr(self, name)
            if value is not None:
                object.__setattr__(self, name, as_timedelta(value, name))
        _check_values(self)
        object.__setattr__(self, "travelling", _travelling(self))

    def updated(self, given: Mapping[str, Any]) -> Self:
        """These options with `given` over them.

        Raises TypeError for an unknown name, or for a value of a wrong type, and
        ValueError for a value out of range or a header that is not the caller's to set.
        """
        for name in given:
            if name not in OPTION_NAMES:
                raise TypeError(
                    f"Unknown task option {name!r}; {nearest(name, OPTION_NAMES)}"
                )
        if "countdown" in given and "eta" not in given:
            given = {"eta": None, **given}
        elif "eta" in given and "countdown" not in given:
            given = {"countdown": None, **given}
        after = replace(self, **given)
        if "headers" in given:  # not of what travels: who sent it was let through
            _refuse_taken(after.headers or {})
        return after


OPTION_NAMES = tuple(
    f.name for f in fields(Options) if f.init and f.name != "carries_backoff"
)
# What the handler or a successor of the message needs; the rest is used up when the
# message is made.
TRAVELLING = (
    "max_attempts",
    "backoff",
    "timeout",
    "atomic",
    "database",
    "service",
    "version",
    "instance",
    "url",
    "headers",
)
_TYPES: dict[str, tuple[type, ...]] = {
    "queue": (str,),
    "small": (bool,),
    "name": (str, type(None)),
    "max_attempts": (int, type(None)),
    "atomic": (bool,),
    "transactional": (bool, type(None)),
    "database": (str,),
    "wipe_related_caches": (bool,),
    "service": (str, type(None)),
    "version": (str, type(None)),
    "instance": (str, type(None)),
    "url": (str, type(None)),
    "headers": (Mapping, type(None)),
    "eta": (datetime, type(None)),
}


def _check_values(options: Options) -> None:
    for name, types in _TYPES.items():
        value = getattr(options, name)
        if not isinstance(value, types) or (int in types and value is True):
            wanted = " or ".join(t.__name__ for t in types if t is not type(None))
            raise TypeError(f"Task option {name!r} must be {wanted}, not {value!r}.")
    if options.eta is not None and is_naive(options.eta):
        raise ValueError(f"eta must be an aware datetime, not {options.eta!r}.")
    if options.eta is not None and options.countdown is not None:
        raise ValueError("Give eta or countdown, not both.")
    if options.max_attempts is not None and options.max_attempts < 1:
        raise ValueError(f"max_attempts must be 1 or more: {options.max_attempts}.")
    backoff = options.backoff
    if not (backoff is None or isinstance(backoff, Backoff) or callable(backoff)):
        raise TypeError(f"backoff must be a Backoff or a function, not {backoff!r}.")
    if not (isinstance(options.unique, bool) or callable(options.unique)):
        raise TypeError(f"unique must be a bool or a function, not {options.unique!r}.")


_TAKEN = {
    "authorization": "the target's token takes its place",
    "connection": "it is about the connection of Cloud Tasks",
    "content-length": "Cloud Tasks computes it",
    "content-type": "it tells what the body is, which this library makes",
    "host": "Cloud Tasks takes it from the URL",
    "transfer-encoding": "it is about the connection of Cloud Tasks",
}
_RESERVED = ("x-appengine-", "x-cloudtasks-", "x-google-")


def _refuse_taken(headers: Mapping[str, str]) -> None:
    """Raise ValueError for a header that would not arrive as it was given.

    Which Cloud Tasks ignores or replaces: HttpRequest.headers, .oidc_token and
    AppEngineHttpRequest.headers in google/cloud/tasks/v2/target.proto; X-CloudTasks-*:
    https://cloud.google.com/tasks/docs/creating-http-target-tasks. User-Agent, which
    App Engine's get, is a matter of the target: see `limits`.
    """
    for name in headers:
        folded = str(name).strip().casefold()
        reason = _TAKEN.get(folded)
        if folded.startswith(_RESERVED):
            reason = "such headers are set by Google alone"
        if reason is not None:
            raise ValueError(f"headers can't have {name!r}: {reason}.")


_DEFAULTS = {f.name: f.default for f in fields(Options)}


def _travelling(options: Options) -> dict[str, Any]:
    """The non-default options that go with the message, as plain JSON values."""
    wire: dict[str, Any] = {}
    for name in TRAVELLING:
        value = getattr(options, name)
        if value == _DEFAULTS[name]:
            continue
        if isinstance(value, timedelta):
            value = value.total_seconds()
        elif isinstance(value, Backoff):
            value = [
                value.min.total_seconds(),
                value.max.total_seconds(),
                value.doublings,
            ]
        elif isinstance(value, Mapping):
            value = dict(value)
        elif callable(value) and not options.carries_backoff:
            continue
        wire[name] = value
    return wire


def options_from_wire(wire: Mapping[str, Any], queue: str) -> Options:
    """The reverse of `Options.travelling`; names of a newer version are ignored."""
    if not wire:
        return _plain(queue)
    given = {name: value for name, value in wire.items() if name in TRAVELLING}
    if isinstance(given.get("backoff"), list):
        given["backoff"] = Backoff(*given["backoff"])
    carries_backoff = callable(given.get("backoff"))
    return Options(queue=queue, carries_backoff=carries_backoff, **given)


@lru_cache(maxsize=1024)
def _plain(queue: str) -> Options:
    """The options of most messages; frozen, so one will do for all of a queue."""
    return Options(queue=queue)
