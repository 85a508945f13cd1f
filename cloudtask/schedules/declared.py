"""The schedules that the running code declares with `@task(schedule=...)`."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cached_property
from itertools import chain as chained
from itertools import islice
from typing import Any, Literal, get_args
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cloudtask import conf
from cloudtask.exceptions import ConfigurationError
from cloudtask.options import as_timedelta
from cloudtask.registry import Definition
from cloudtask.schedules import occurrences
from cloudtask.schedules.occurrences import Every

CatchUp = Literal["last", "all", "none"]
Overlap = Literal["allow", "skip"]
LONGEST_KEY = 200
MOST_COUNTED = 10_000  # moments that are too old, of one pause
LONGEST = timedelta(days=29)  # Cloud Tasks takes calls that are due in 30 days


@dataclass(frozen=True, slots=True)
class Schedule:
    """When calls of a task are due.

    `every` is a cron expression with five fields, or a timedelta. `tz` is the name of
    the zone of a cron expression, by default the TIME_ZONE of the project. `args` and
    `kwargs` are the arguments of the calls. `key` names the schedule in commands and in
    the database; by default it is the path of the task.

    `catch_up` says what happens to moments that passed while no relay ran: "last" makes
    one call for all of them, "all" makes each call, "none" makes none. Moments that are
    older than `window` are never made up for. With `overlap="skip"` a call does not
    begin while an earlier one runs, or waits for another attempt. `spread` delays each
    call by a part of this time, always the same for one key. A schedule that is not
    `enabled` begins switched off.
    """

    every: Every
    tz: str | None = None
    args: Sequence[Any] = field(default=(), repr=False)
    kwargs: Mapping[str, Any] = field(default_factory=dict, repr=False)
    key: str | None = None
    catch_up: CatchUp = "last"
    window: timedelta | float = timedelta(days=1)
    overlap: Overlap = "allow"
    spread: timedelta | float = timedelta(0)
    enabled: bool = True

    def __post_init__(self) -> None:
        for name, known in (("catch_up", CatchUp), ("overlap", Overlap)):
            given, words = getattr(self, name), get_args(known)
            if given not in words:
                choice = " or ".join(map(repr, words))
                raise ConfigurationError(f"{name} is {choice}, not {given!r}.")
        for name in ("window", "spread"):
            duration = as_timedelta(getattr(self, name), f"{name} of a schedule")
            if not timedelta(0) <= duration <= LONGEST:
                raise ConfigurationError(
                    f"{name} of a schedule must be between 0 and {LONGEST.days} days."
                )
            object.__setattr__(self, name, duration)
        occurrences.check(self.every, _zone(self.tz or "UTC"))


@dataclass(frozen=True)
class Declared:
    """A schedule of a task."""

    key: str
    definition: Definition
    schedule: Schedule

    @cached_property
    def zone(self) -> ZoneInfo:
        return _zone(self.schedule.tz or conf.time_zone())

    @property
    def text(self) -> str:
        """The schedule as text, which tells whether it was changed."""
        every = self.schedule.every
        if isinstance(every, timedelta):
            return f"every {every}"
        return f"{' '.join(every.split())} {self.zone.key}"

    @property
    def window(self) -> timedelta:
        return as_timedelta(self.schedule.window, "window")

    @property
    def delay(self) -> timedelta:
        """A part of `spread`, always the same for one key."""
        digest = hashlib.sha256(self.key.encode()).digest()
        share = int.from_bytes(digest[:8], "big") / 2**64
        return as_timedelta(self.schedule.spread, "spread") * share

    @property
    def is_enabled(self) -> bool:
        return self.schedule.enabled

    @property
    def alias(self) -> str:
        """The database with the row of the schedule, and the outbox of its calls."""
        return self.definition.options.database

    def count(self, after: datetime, until: datetime) -> int:
        """The number of moments in (after, until], counted up to MOST_COUNTED."""
        every = self.schedule.every
        if isinstance(every, timedelta):
            epoch = occurrences.EPOCH
            return max((until - epoch) // every - (after - epoch) // every, 0)
        found = occurrences.occurrences(every, self.zone, after, until)
        return sum(1 for _ in islice(found, MOST_COUNTED))

    def between(self, after: datetime, until: datetime) -> list[datetime]:
        """The moments in (after, until], in UTC."""
        every = self.schedule.every
        return list(occurrences.occurrences(every, self.zone, after, until))

    def next_after(self, after: datetime, until: datetime) -> datetime | None:
        """The next moment in (after, until], in UTC."""
        found = occurrences.occurrences(self.schedule.every, self.zone, after, until)
        return next(found, None)


_declared: dict[str, Declared] = {}


def declared() -> dict[str, Declared]:
    """All declared schedules by key."""
    return dict(sorted(_declared.items()))


def declare(definition: Definition, given: Any) -> None:
    """Take note of the schedules of a task; raises ConfigurationError.

    A module that is loaded again replaces the schedules of its tasks.
    """
    several = list(given) if isinstance(given, list | tuple) else [given]
    made = [one if isinstance(one, Schedule) else Schedule(one) for one in several]
    for one in made:
        if one.key is None and len(made) > 1:
            raise ConfigurationError(
                f"{definition.path} has several schedules: give each a key, for "
                'example Schedule("30 2 * * *", key="nightly").'
            )
    _check(definition, made)
    found = [Declared(one.key or definition.path, definition, one) for one in made]
    _check_keys(definition, found)
    for key in [
        k for k, d in _declared.items() if d.definition.path == definition.path
    ]:
        del _declared[key]
    _declared.update({one.key: one for one in found})


def _check(definition: Definition, schedules: Sequence[Schedule]) -> None:
    if definition.options.unique:
        raise ConfigurationError(
            f"{definition.path} can't have both schedule and unique: a held key would "
            "drop a call that is due."
        )
    if definition.has_subject:
        raise ConfigurationError(
            f"{definition.path} is a method, which has no instance when it is due. "
            "Give the schedule to a function."
        )
    for one in schedules:
        try:
            definition.check_call(tuple(one.args), dict(one.kwargs))
        except TypeError as error:
            raise ConfigurationError(f"The schedule of {error}") from error


def _check_keys(definition: Definition, found: Sequence[Declared]) -> None:
    keys = [one.key for one in found]
    for key in keys:
        other = _declared.get(key)
        is_taken = other is not None and other.definition.path != definition.path
        if is_taken or keys.count(key) > 1:
            raise ConfigurationError(f"Two schedules have the key {key!r}.")
        if len(key) > LONGEST_KEY:
            raise ConfigurationError(
                f"The key of a schedule of {definition.path} is longer than "
                f"{LONGEST_KEY} characters: give it a shorter key=."
            )


def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise ConfigurationError(f"There is no time zone {name!r}.") from error


def moments(until: datetime, since: datetime) -> list[tuple[datetime, Declared]]:
    """Every moment in (since, until] of enabled schedules, earliest first."""
    found = chained.from_iterable(
        [(at, one) for at in one.between(since, until)]
        for one in declared().values()
        if one.is_enabled
    )
    return sorted(found, key=lambda pair: (pair[0], pair[1].key))
