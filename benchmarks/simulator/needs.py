"""Computes what a load needs: queues, requests at once, database writes and money."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from benchmarks.simulator.dispatch import RAMP_GROWTH, RAMP_SECONDS, RAMP_START

QUEUE_RATE = 500.0  # dispatches a second
QUEUE_AT_ONCE = 5_000  # dispatches, if the queue says so
# https://cloud.google.com/tasks/pricing, by a copy of 2026. An operation is a call of
# the API or an attempt, for each 32 KB.
FREE, DOLLARS_A_MILLION = 1e6, 0.40

RECORDS_DAYS = 32  # MAX_AGE, for which the record of an atomic call stays
SHARDS = 256  # of an iteration, at most
LEG, CHECKPOINT = 600.0, 2.0  # seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class Calls:
    """Calls of one kind, an hour for ever. `failing` is the part of attempts that fail.

    A call in a transaction writes an outbox row and deletes it. An atomic one writes a
    record, which is deleted after RECORDS_DAYS.
    """

    an_hour: float
    seconds: float
    failing: float = 0.0
    transactional: bool = False
    atomic: bool = False

    @property
    def attempts_a_second(self) -> float:
        return self.an_hour / 3600 / (1 - self.failing)

    @property
    def at_once(self) -> float:
        """Requests that run at the same time, on average."""
        return self.attempts_a_second * self.seconds

    @property
    def queues(self) -> int:
        by_rate = self.attempts_a_second / QUEUE_RATE
        return max(1, math.ceil(by_rate), math.ceil(self.at_once / QUEUE_AT_ONCE))

    @property
    def writes_a_second(self) -> float:
        """Rows that are inserted or deleted, once records are as old as they get."""
        return self.an_hour / 3600 * (2 * self.transactional + 2 * self.atomic)

    @property
    def rows_at_rest(self) -> float:
        return self.an_hour * 24 * RECORDS_DAYS * self.atomic

    @property
    def dollars_a_month(self) -> float:
        """Of operations, for 30 days."""
        an_hour = self.an_hour + self.attempts_a_second * 3600
        return dollars(an_hour * 24 * 30)

    @property
    def ramp(self) -> float:
        """Seconds of ramp-up before the whole rate is reached from nothing."""
        rate = self.attempts_a_second
        if rate <= RAMP_START:
            return 0.0
        steps = math.log(rate / RAMP_START, RAMP_GROWTH)
        return RAMP_SECONDS * math.ceil(steps)


@dataclass(frozen=True, slots=True, kw_only=True)
class Walk:
    """An iteration over `rows`, each of which takes `row_seconds`."""

    rows: float
    row_seconds: float
    shards: int = SHARDS

    @property
    def seconds(self) -> float:
        return self.rows * self.row_seconds / self.shards

    @property
    def legs(self) -> float:
        return self.shards * math.ceil(self.seconds / LEG)

    @property
    def checkpoints(self) -> float:
        return self.shards * self.seconds / CHECKPOINT


def dollars(operations: float) -> float:
    return max(0.0, operations - FREE) / 1e6 * DOLLARS_A_MILLION


CALLS = (
    *("calls an hour", "kind", "queues", "at once", "ramp-up"),
    *("rows written a second", "rows at rest", "dollars a month"),
)
KINDS = ("small", "transactional", "transactional, atomic")


def table_of_calls() -> str:
    return _table(
        CALLS, (_of_calls(n, kind) for n in (1e5, 1e6, 1e7) for kind in KINDS)
    )


def _of_calls(an_hour: float, kind: str) -> tuple[str, ...]:
    one = Calls(
        an_hour=an_hour,
        seconds=0.2,
        failing=0.01,
        transactional="transactional" in kind,
        atomic="atomic" in kind,
    )
    return (
        f"{an_hour:,.0f}",
        kind,
        str(one.queues),
        f"{one.at_once:,.0f}",
        f"{one.ramp / 60:.0f} min",
        f"{one.writes_a_second:,.0f}",
        f"{one.rows_at_rest:,.0f}",
        f"{one.dollars_a_month:,.0f}",
    )


WALKS = (
    *("rows", "ms for each", "minutes", "tasks", "writes of cursors"),
    "dollars with a call for each row instead",
)


def table_of_walks() -> str:
    sizes = [(rows, ms) for rows in (1e6, 1e8, 1e9) for ms in (0.1, 1.0, 10.0)]
    return _table(WALKS, (_of_walk(rows, ms) for rows, ms in sizes))


def _of_walk(rows: float, milliseconds: float) -> tuple[str, ...]:
    one = Walk(rows=rows, row_seconds=milliseconds / 1000)
    return (
        f"{rows:,.0f}",
        f"{milliseconds:g}",
        f"{one.seconds / 60:,.1f}",
        f"{one.legs:,.0f}",
        f"{one.checkpoints:,.0f}",
        f"{dollars(2 * rows):,.2f}",
    )


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
