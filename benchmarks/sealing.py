"""Measures what sealing adds to the queries of stores: CPU, with and without seals."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from itertools import count
from typing import Any
from unittest import mock

from django.core.management import call_command
from django.db import transaction

from benchmarks import tasks
from benchmarks.harness import Budget, Case, Effort, Results, Scenario
from benchmarks.results import TIME
from cloudtask import envelope
from cloudtask.message import Message
from cloudtask.models import OutboxMessage
from cloudtask.runs import FailureState, RowFailure, Run, RunState, Shard, Walked
from cloudtask.sending import on_commit, outbox, relay
from cloudtask.stores import sealing
from cloudtask.stores.database import DatabaseStore
from cloudtask.stores.results import ResultState, StoredResult, result_place
from cloudtask.stores.swaps import Swap

RUN = "c" * 32
MOST = 1.05  # times the CPU of the same query without seals
LEASE = timedelta(minutes=5)
ROWS = ("load 100 failed rows", "load 100 rows that wait")
TIMES = 20  # of each operation in a sample
UNSEALED = "without seals: "


EACH_VALUE = "Each value has a seal of its own, for its row and its column."


def scenario(effort: Effort) -> Scenario:
    operations = _Operations()
    named: dict[str, Callable[[], object]] = {
        "plan 32 shards": operations.plan,
        "load a run": operations.load_run,
        "acquire and release a shard": operations.lease,
        "checkpoint of a shard": operations.checkpoint,
        "keep a result and read it": operations.keep_result,
        "relay a row of the outbox": operations.relay_row,
        ROWS[0]: operations.load_failures,
        ROWS[1]: operations.waiting_failures,
    }
    cases = []
    for name, operation in named.items():
        cases.append(Case(UNSEALED + name, _timed(operation), 0, _without_seals))
        cases.append(Case(name, _timed(operation), 0))
    return Scenario(
        title="CPU of the queries of stores, with and without seals (SQLite)",
        cases=cases,
        budgets=[
            *(
                Budget(f"{name}, over no seals", _ratio(name), MOST, "x", EACH_VALUE)
                for name in named
                if name not in ROWS
            ),
            *(Budget(f"{name}: a seal", _seal(name), 10, " us", TIME) for name in ROWS),
        ],
        baseline=UNSEALED + "load a run",
        about="What rests in the store is signed, and is verified when it is read.",
        chart=False,
        around=_tables,
    )


def _ratio(name: str) -> Callable[[Results], float]:
    return lambda results: results[name].best / results[UNSEALED + name].best


def _seal(name: str) -> Callable[[Results], float]:
    """Microseconds of each of the 100 rows: they cost little more than a seal."""
    return lambda results: (
        (results[name].best - results[UNSEALED + name].best) / 100 * 1e6
    )


def _timed(operation: Callable[[], object]) -> Callable[[], float]:
    """Seconds of CPU that one call takes, after a first one has made what it needs."""

    def run() -> float:
        operation()
        started = time.process_time()
        for _ in range(TIMES):
            operation()
        return (time.process_time() - started) / TIMES

    return run


@contextmanager
def _without_seals() -> Iterator[None]:
    """Values rest as they are inside the block, which begins and ends with no run."""

    def as_it_is(value: Any, *, place: envelope.Place) -> Any:
        return value

    with ExitStack() as stack:
        for name in ("seal_text", "unseal_text", "seal_value", "unseal_value"):
            stack.enter_context(mock.patch.object(sealing, name, as_it_is))
        for name in ("seal_value", "unseal_value"):
            stack.enter_context(mock.patch.object(envelope, name, as_it_is))
        # A message is signed for its way in any case; its row is one place more.
        stack.enter_context(mock.patch.object(outbox, "place_of", _nowhere))
        stack.enter_context(mock.patch.object(envelope, "unseal_resting", _unsealed))
        stack.enter_context(mock.patch.object(relay, "check", _unchecked))
        _Operations.forget()
        yield
    _Operations.forget()


def _nowhere(key: str, task: str, queue: str) -> None:
    """The place of an envelope that is signed for none."""


def _unsealed(data: bytes, *, place: envelope.Place) -> Message:
    return envelope.unseal(data, now=0.0)


def _unchecked(row: object) -> None:
    """Takes a row as it is."""


@contextmanager
def _tables() -> Iterator[None]:
    call_command("migrate", verbosity=0)
    yield


class _Operations:
    """The queries that are measured, on a run that exists once one of them needs it."""

    made: set[str] = set()

    def __init__(self) -> None:
        self.store = DatabaseStore({})
        self.keys = count()

    @classmethod
    def forget(cls) -> None:
        cls.made.clear()
        DatabaseStore({}).delete_run(RUN)

    def _run(self, what: str, make: Callable[[], None]) -> None:
        """A run for `what`, with rows that are sealed as they will be read."""
        if self.made != {what}:
            self.forget()
            self.store.create_run(_run())
            make()
            self.made.add(what)

    def plan(self) -> None:
        self.forget()
        self.store.create_run(_run())
        shards = [
            Shard(run=RUN, index=n, low=str(n), high=str(n + 1)) for n in range(32)
        ]
        self.store.add_part(RUN, 0, shards, total=32)

    def load_run(self) -> None:
        self._run("load", lambda: None)
        self.store.load_run(RUN)

    def lease(self) -> None:
        self._run("lease", self._one_shard)
        shard = self.store.acquire(RUN, 0, self._seq, lease=LEASE)
        assert shard is not None
        self.store.release(shard, Walked(cursor=shard.cursor, **_NOTHING))
        self._seq += 1

    def checkpoint(self) -> None:
        self._run("checkpoint", self._leased)
        self._cursor += 1
        walked = Walked(cursor=str(self._cursor), **_NOTHING)
        assert self.store.checkpoint(self._shard, walked, lease=LEASE)

    def keep_result(self) -> None:
        key = f"{next(self.keys):032x}"
        place = result_place(key)
        result = StoredResult(
            id=key,
            task="app.tasks.add",
            queue="default",
            state=ResultState.SUCCEEDED,
            value=envelope.seal_value(b"3" * 200, place=place),
            error="",
            traceback="",
            enqueued_at=datetime.now(UTC),
        )
        self.store.save_result(result, LEASE)
        kept = self.store.load_result(key)
        assert kept is not None
        assert kept.value is not None
        envelope.unseal_value(kept.value, place=place)

    def relay_row(self) -> None:
        """Write a row as a commit does, and relay it; nothing is sent."""
        with mock.patch.object(on_commit, "_relay"), transaction.atomic():
            tasks.ours.defer(7, template="rich")
        OutboxMessage.objects.update(due_at=datetime(2020, 1, 1, tzinfo=UTC))
        assert relay.relay().sent == 1

    def load_failures(self) -> None:
        self._run("failures", self._failures)
        assert len(self.store.load_failures(RUN)) == 100

    def waiting_failures(self) -> None:
        self._run("failures", self._failures)
        assert len(self.store.waiting_failures(RUN, 0, limit=100)[0]) == 100

    def _one_shard(self) -> None:
        self._seq = 0
        shard = Shard(run=RUN, index=0, low="1", high="9000000", cursor="1")
        self.store.add_part(RUN, 0, [shard], total=1)

    def _leased(self) -> None:
        self._cursor = 0
        self._one_shard()
        shard = self.store.acquire(RUN, 0, 0, lease=LEASE)
        assert shard is not None
        self._shard = shard

    def _failures(self) -> None:
        for number in range(100):
            failure = RowFailure(
                run=RUN, shard=0, key=str(number), state=FailureState.WAITING
            )
            self.store.swap("Recording", partial(_put, failure))


def _put(failure: RowFailure, swap: Swap) -> None:
    swap.put_failure(failure, timedelta(0))


_NOTHING: dict[str, int] = {"done": 0, "failed": 0, "skipped": 0}


def _run() -> Run:
    return Run(
        id=RUN,
        task="app.tasks.visit",
        queue="default",
        state=RunState.PLANNING,
        description=b"d" * 500,
        options=b"{}",
    )
