"""Defines the options of a task: how it is enqueued and run.

`Options` is the one list of them. `@task`, `.using`, the wire, the backend for
django.tasks, `cloudtask.deferred` and docs/reference/options.md follow from it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any, Self

from cloudtask.options import facts
from cloudtask.options.facts import (
    Backoff,
    BackoffFunction,
    Option,
    as_timedelta,
    check_known,
    is_a,
    nearest,
    option,
    option_of,
)
from cloudtask.options.familiar import advice, check_options

__all__ = [
    "OPTIONS",
    "Backoff",
    "BackoffFunction",
    "Option",
    "Options",
    "advice",
    "as_timedelta",
    "check_known",
    "check_options",
    "nearest",
    "options_from_wire",
]

RUN_AFTER = "give run_after to using()"


def _routing(part: str, shown: str) -> Any:
    """The option of a part of App Engine's routing."""
    return option(
        None,
        facts.app_engine_id,
        f"the App Engine {part}; other targets ignore it",
        shown=shown,
        travels=True,
        deferred=(f"_{part}",),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How a task is enqueued and run; the names that `@task` and `.using` take.

    A backoff function of `@task` stays with the task. One of `.using` travels, by its
    import path; `carries_backoff` marks it.
    """

    queue: str = option(
        "default",
        is_a(str),
        "queue id",
        deferred=("_queue",),
        not_in_django_tasks="give queue_name to the task",
    )
    small: bool = option(
        False,
        is_a(bool),
        "the payload always travels in the task, 100 KiB (102,400 bytes) at most; no "
        "store, no outbox row",
        deferred=("_small_task", "_small"),
    )
    countdown: timedelta | None = option(
        None,
        facts.duration,
        "earliest start, as a duration from now",
        shown="",
        only_in_using=True,
        deferred=("_countdown",),
        not_in_django_tasks=RUN_AFTER,
    )
    eta: datetime | None = option(
        None,
        facts.moment,
        "earliest start, as a moment, 30 days ahead at most; the past means now",
        shown="now",
        only_in_using=True,
        deferred=("_eta",),
        not_in_django_tasks=RUN_AFTER,
    )
    name: str | None = option(
        None,
        is_a(str),
        "Cloud Tasks task id, which can be used once; in a transaction, a duplicate is "
        "[parked](../howto/outbox.md) after the commit",
        shown="generated",
        only_in_using=True,
        deferred=("_name",),
        not_in_django_tasks="give name to using(), since it belongs to one call",
    )
    unique: bool | Callable[..., Any] = option(
        False,
        facts.unique,
        "`True`, or a function of the arguments that returns a key: only one call of "
        "each key [waits](../explanation/guarantees.md#unique-in-detail); it always "
        "uses the outbox",
    )
    max_attempts: int | None = option(
        None,
        facts.attempts,
        "number of all attempts, including those before a `Retry`",
        shown="the queue's, else 100",
        travels=True,
    )
    backoff: Backoff | BackoffFunction | None = option(
        None,
        facts.backoff,
        "`Backoff(min, max, doublings)`, or a function `(exception, context)` that "
        "returns seconds, a `timedelta`, or `None` to give up",
        shown="the queue's",
        travels=True,
    )
    timeout: timedelta | None = option(
        None,
        facts.duration,
        "how long Cloud Tasks waits for the answer: 15 seconds to 30 minutes, or to 24 "
        "hours and 15 seconds on App Engine",
        shown="the target's",
        travels=True,
    )
    atomic: bool = option(
        False,
        is_a(bool),
        "run the function in a transaction on `database`, with a record that it ran: a "
        "second delivery changes nothing",
        travels=True,
    )
    transactional: bool | None = option(
        None,
        is_a(bool),
        "enqueue only if the open transaction on `database` commits",
        shown="`True` inside `atomic()`",
        deferred=("_transactional",),
    )
    database: str = option(
        "default",
        is_a(str),
        "the alias for `transactional`, the outbox and `atomic`",
        travels=True,
        deferred=("_using",),
    )
    keep_result: timedelta | None = option(
        None,
        facts.kept,
        "how long the [result](../howto/results.md) is kept: what the function "
        "returned, or why it failed",
        shown="not kept",
        travels=True,
        not_in_django_tasks='set OPTIONS["results"]',
    )
    cancellable: bool = option(
        False,
        is_a(bool),
        "let [`receipt.cancel()`](../howto/cancel.md) promise that the call does not "
        "begin; each delivery then writes a mark to the store first",
        travels=True,
        not_in_django_tasks="its results have no cancel()",
    )
    wipe_related_caches: bool = option(
        True,
        is_a(bool),
        "leave out cached relations of model instances, on copies",
        deferred=("_wipe_related_caches",),
        not_in_django_tasks="its arguments are JSON, without model instances",
    )
    service: str | None = _routing("service", "the running one")
    version: str | None = _routing("version", "the running one")
    instance: str | None = _routing("instance", "any")
    url: str | None = option(
        None,
        is_a(str),
        "another handler: a path, or an address with an `HttpTarget`",
        shown="cloudtask's own",
        travels=True,
        deferred=("_url",),
        repr=False,
    )
    headers: Mapping[str, str] | None = option(
        None,
        is_a(Mapping),
        "further headers of the delivery: see below",
        shown="none",
        travels=True,
        deferred=("_headers",),
        repr=False,
    )
    carries_backoff: bool = False
    travelling: Mapping[str, Any] = field(
        init=False, repr=False, compare=False, default_factory=dict
    )

    def __post_init__(self) -> None:
        for one in OPTIONS.values():
            value = getattr(self, one.name)
            kept = one.checked(value)
            if kept is not value:
                object.__setattr__(self, one.name, kept)
        if self.eta is not None and self.countdown is not None:
            raise ValueError("Give eta or countdown, not both.")
        object.__setattr__(self, "travelling", _travelling(self))

    def updated(self, given: Mapping[str, Any]) -> Self:
        """These options, replaced by those that are `given`.

        Raises TypeError for an unknown name or a value of a wrong type, and ValueError
        for a value out of range or a header that the caller can't set.
        """
        check_options("A task", given, OPTIONS)
        if "countdown" in given and "eta" not in given:
            given = {"eta": None, **given}
        elif "eta" in given and "countdown" not in given:
            given = {"countdown": None, **given}
        after = replace(self, **given)
        if "headers" in given:  # options that arrive were checked by their sender
            facts.check_headers(after.headers or {})
        return after


OPTIONS: Mapping[str, Option] = {
    found.name: found for f in fields(Options) if (found := option_of(f)) is not None
}
_TRAVELLING = tuple(one for one in OPTIONS.values() if one.travels)


def _travelling(options: Options) -> dict[str, Any]:
    """The options that go with the message and differ from their defaults, as plain
    JSON values; a function for the codec."""
    wire: dict[str, Any] = {}
    for one in _TRAVELLING:
        value = getattr(options, one.name)
        if value == one.default:
            continue
        if callable(value) and not options.carries_backoff:
            continue
        wire[one.name] = _plain_value(value)
    return wire


def _plain_value(value: Any) -> Any:
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, Backoff):
        return [value.min.total_seconds(), value.max.total_seconds(), value.doublings]
    return dict(value) if isinstance(value, Mapping) else value


def options_from_wire(wire: Mapping[str, Any], queue: str) -> Options:
    """The reverse of `Options.travelling`; names of a newer version are ignored."""
    if not wire:
        return _plain(queue)
    given = {one.name: wire[one.name] for one in _TRAVELLING if one.name in wire}
    if isinstance(given.get("backoff"), list):
        given["backoff"] = Backoff(*given["backoff"])
    carries_backoff = callable(given.get("backoff"))
    return Options(queue=queue, carries_backoff=carries_backoff, **given)


@lru_cache(maxsize=1024)
def _plain(queue: str) -> Options:
    """The options of most messages; frozen, so all of a queue share them."""
    return Options(queue=queue)
