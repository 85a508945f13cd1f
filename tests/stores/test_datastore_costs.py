"""The table of calls in docs/howto/datastore.md, counted on the Datastore emulator.

The store begins its transactions as in production: with their first lookup, which the
Datastore emulator takes and Firestore's does not.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from cloudtask.runs import FailureState, Run, RunState, Shard
from cloudtask.stores import FailedCall
from cloudtask.stores.datastore import DatastoreStore
from cloudtask.stores.groups import StoredGroup
from cloudtask.stores.results import ResultState, StoredResult
from tests.stores.datastore_fixtures import empty_place
from tests.stores.runs_making import (
    LEASE,
    OTHER,
    RUN,
    create,
    failure,
    finish,
    load_shard,
    record,
    shards_of,
    start,
    take,
    walked,
)
from tests.support import clock
from tests.support.proxy import DatastoreProxy

PAGE = Path(__file__).parents[2] / "docs" / "howto" / "datastore.md"
MIB = 1024 * 1024
AN_HOUR = timedelta(hours=1)
AT_ONCE = timedelta(0)
TRIES = 10  # a busy machine may let a call run out of time
HALF = Shard(run=RUN, index=0, low="5", high="10", expected=5)
AT = datetime(2026, 1, 2, tzinfo=UTC)
FAILED = FailedCall(
    **dict.fromkeys(("task", "queue", "name", "arguments", "error", "traceback"), "x"),
    key="k",
    envelope=b"envelope",
    attempts=1,
    enqueued_at=AT,
)
RESULT = StoredResult(
    id="k", task="t", queue="q", state=ResultState.SUCCEEDED, value=b"v", enqueued_at=AT
)
Act = Callable[[DatastoreStore], Any]
# What comes before the counted calls; the counted calls may use what it returns.
Case = tuple[Act, Callable[[DatastoreStore, Any], Any]]


def nothing(store: DatastoreStore) -> None:
    pass


def saved(size: int) -> Act:
    return lambda store: store.save_payload("k", b"x" * size)


def saving(size: int) -> Case:
    return nothing, lambda store, _: saved(size)(store)


def loading(size: int) -> Case:
    return saved(size), lambda store, _: store.load_payload("k")


def planning(shards: int) -> Case:
    def begin(store: DatastoreStore) -> None:
        create(store, state=RunState.PLANNING)

    plan = shards_of(RUN, shards)
    return begin, lambda store, _: store.add_part(RUN, 0, plan, total=1)


def kept(store: DatastoreStore) -> None:
    store.save_failed(FAILED)


def leased(store: DatastoreStore) -> Shard:
    start(store)
    return take(store)


def started(store: DatastoreStore) -> Shard:
    start(store)
    return load_shard(store)


def settling(store: DatastoreStore) -> Run:
    create(store, state=RunState.FINALIZING)
    run = store.acquire_run(RUN, state=RunState.FINALIZING, lease=LEASE)
    assert run is not None
    return run


def ended(store: DatastoreStore) -> None:
    start(store)
    finish(store)


def given_up(rows: int) -> Act:
    def begin(store: DatastoreStore) -> None:
        ended(store)
        for row in range(rows):
            one = failure(str(row), FailureState.FAILED)
            record(store, one, delay=AT_ONCE)

    return begin


def two_running(store: DatastoreStore) -> None:
    start(store)
    start(store, run_id=OTHER)


def later(act: Act) -> Callable[[DatastoreStore, Any], Any]:
    def acted(store: DatastoreStore, _: Any) -> Any:
        with clock.ahead(7200):
            return act(store)

    return acted


def on(begin: Act, *acts: Callable[[Any, Any], Any]) -> list[Case]:
    return [(begin, act) for act in acts]


def with_result(store: DatastoreStore, _: object) -> None:
    store.save_result(RESULT, AN_HOUR)


def with_group(store: DatastoreStore, _: object) -> None:
    store.create_group(StoredGroup(id="g", total=2, rest=b"rest"))


def with_member(store: DatastoreStore, _: object) -> None:
    store.save_member("g", 0, b"value")


def filled(store: DatastoreStore) -> None:
    start(store)
    saved(100)(store)
    kept(store)
    record(store, failure("1"), delay=AT_ONCE)


# For each row of the table, and each number in it: the cases that take so many calls.
ROWS: dict[str, list[list[Case]]] = {
    "save a payload up to 2.9 MB; 20 MiB": [[saving(2_900_000)], [saving(20 * MIB)]],
    "load a payload up to 16 KB; 3.9 MB; 20 MiB": [
        [loading(16_000)],
        [loading(3_900_000)],
        [loading(20 * MIB)],
    ],
    "finish, touch, delete a payload": [
        on(
            saved(2_900_000),
            lambda store, _: store.finish_payload("k"),
            lambda store, _: store.touch_payload("k"),
            lambda store, _: store.delete_payload("k"),
        )
    ],
    "keep, delete a failed task": [
        [
            (nothing, lambda store, _: kept(store)),
            (kept, lambda store, _: store.delete_failed("k")),
        ]
    ],
    "create, change or touch a run, settle its lease": [
        [
            (
                nothing,
                lambda store, _: store.create_run(
                    Run(id=RUN, task="t", queue="q", state=RunState.WAITING)
                ),
            ),
            (
                create,
                lambda store, _: store.change_run(
                    RUN, to=RunState.PLANNING, only_from=[RunState.WAITING]
                ),
            ),
            (create, lambda store, _: store.touch_run(RUN)),
            (
                settling,
                lambda store, run: store.settle_run(run, to=RunState.FINISHED),
            ),
        ]
    ],
    "take the lease of a run, repeat the step of a lost run": [
        [
            (
                lambda store: create(store, state=RunState.FINALIZING),
                lambda store, _: store.acquire_run(
                    RUN, state=RunState.FINALIZING, lease=LEASE
                ),
            ),
            (create, lambda store, run: store.bump_run(run)),
        ]
    ],
    "add a part of a plan with up to 22 shards; 251; 490": [
        [planning(22)],
        [planning(251)],
        [planning(490)],
    ],
    "`try_finalize`": [on(ended, lambda store, _: store.try_finalize(RUN))],
    "take the lease of a shard, checkpoint, release, complete, give back, touch": [
        [
            (start, lambda store, _: store.acquire(RUN, 0, 0, lease=LEASE)),
            (started, lambda store, shard: store.bump_shard(shard)),
            *on(
                leased,
                lambda store, shard: store.checkpoint(shard, walked("1"), lease=LEASE),
                lambda store, shard: store.release(shard, walked("1")),
                lambda store, shard: store.complete(shard, walked("9")),
                lambda store, shard: store.give_back(shard, walked("1")),
            ),
        ]
    ],
    "checkpoint that records a failed row": [
        on(
            leased,
            lambda store, shard: store.checkpoint(
                shard, walked("1"), lease=LEASE, failure=failure("1")
            ),
        )
    ],
    "release with a split": [
        on(
            leased,
            lambda store, shard: store.release(shard, walked("1"), split=HALF),
        )
    ],
    "load, list, count": [
        on(
            filled,
            lambda store, _: store.load_payload("k"),
            lambda store, _: store.load_failed("k"),
            lambda store, _: store.load_run(RUN),
            lambda store, _: store.load_shard(RUN, 0),
            lambda store, _: store.load_shards(RUN),
            lambda store, _: store.load_failures(RUN),
            lambda store, _: store.waiting_failures(RUN, 0, limit=9),
            lambda store, _: store.page_failed(limit=9),
            lambda store, _: store.page_runs(limit=9),
        )
    ],
    "open 1 failed row again; 15 of a shard; 16": [
        [(given_up(1), lambda store, _: store.reopen_failures(RUN))],
        [(given_up(15), lambda store, _: store.reopen_failures(RUN))],
        [(given_up(16), lambda store, _: store.reopen_failures(RUN))],
    ],
    "find lost shards of no running iteration; of 2": [
        [(f, later(lambda s: s.stale_shards(older_than=AN_HOUR, limit=9)))]
        for f in (create, two_running)
    ],
    "find lost runs among none; among 2 that were not changed for so long": [
        [(f, later(lambda s: s.stale_runs(older_than=AN_HOUR, limit=9)))]
        for f in (nothing, two_running)
    ],
    "keep a result, load it": [
        [(nothing, with_result)],
        [(lambda store: with_result(store, None), lambda s, _: s.load_result("k"))],
    ],
    "create a group; save the value of a member": [
        [(nothing, with_group)],
        [(lambda store: with_group(store, None), with_member)],
    ],
    "find ended runs to prune": [
        on(ended, lambda store, _: store.old_runs(AN_HOUR, 9))
    ],
}


def table() -> dict[str, list[int]]:
    """The rows of the page: the calls of each operation."""
    page = PAGE.read_text(encoding="utf-8")
    section = page.partition("## Number of calls")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (.+) \| ([\d; ]+) \|$", section, re.MULTILINE)
    return {row: [int(one) for one in calls.split("; ")] for row, calls in rows}


def test_each_row_of_the_page_is_counted_here() -> None:
    assert {row: len(calls) for row, calls in table().items()} == {
        row: len(numbers) for row, numbers in ROWS.items()
    }


CASES = [
    pytest.param(row, place, number, id=f"{row} ({place + 1}.{number + 1})")
    for row, numbers in ROWS.items()
    for place, cases in enumerate(numbers)
    for number in range(len(cases))
]


@pytest.mark.parametrize(("row", "place", "number"), CASES)
def test_the_page_tells_how_many_calls_there_are(
    datastore_at: Callable[[str], DatastoreProxy], row: str, place: int, number: int
) -> None:
    proxy = datastore_at("datastore")

    assert counted(proxy, *ROWS[row][place][number]) == table()[row][place]


def counted(proxy: DatastoreProxy, begin: Act, act: Callable[..., Any]) -> int:
    """The calls of `act`, in an empty namespace, when the emulator answers them all."""
    for _ in range(TRIES):
        store = DatastoreStore(empty_place(), begins_early=False)
        found = begin(store)
        proxy.reset()
        act(store, found)
        made, disturbed = proxy.calls.total(), proxy.disturbed
        store.delete_payload("k")
        if not disturbed:
            return made
    raise AssertionError(f"in {TRIES} tries the emulator refused a call, or was late")
