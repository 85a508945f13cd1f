"""Runs and shards that the contracts begin with."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from cloudtask.runs import FailureState, RowFailure, Run, RunState, Shard, Walked
from cloudtask.stores import Store

LEASE = timedelta(minutes=5)
AN_HOUR = 3600.0  # seconds: longer than any lease here
AT_ONCE = timedelta(0)

RUN = "a" * 32
OTHER = "b" * 32


def create(
    store: Store,
    run_id: str = RUN,
    state: RunState = RunState.WAITING,
    delay: timedelta | None = AT_ONCE,
    **values: Any,
) -> Run:
    """A run, as the store has it."""
    made = Run(id=run_id, task="app.tasks.walk", queue="default", state=state, **values)
    store.create_run(made, delay=delay)
    return load(store, run_id)


def load(store: Store, run_id: str = RUN) -> Run:
    run = store.load_run(run_id)
    assert run is not None
    return run


def load_shard(store: Store, index: int = 0, run_id: str = RUN) -> Shard:
    shard = store.load_shard(run_id, index)
    assert shard is not None
    return shard


def whole(store: Store, shards: list[Shard]) -> list[Shard]:
    """Shards of a list, each with its keys, which are sealed in lists."""
    return [load_shard(store, shard.index, shard.run) for shard in shards]


def shards_of(run_id: str, count: int) -> list[Shard]:
    return [
        Shard(
            run=run_id,
            index=index,
            low=None if index == 0 else str(index * 10),
            high=str(index * 10 + 10),
            expected=10,
        )
        for index in range(count)
    ]


def start(store: Store, shards: int = 1, run_id: str = RUN) -> Run:
    """A RUNNING run of so many shards."""
    create(store, run_id, RunState.PLANNING)
    assert store.add_part(run_id, 0, shards_of(run_id, shards), total=shards * 10)
    return load(store, run_id)


def take(store: Store, index: int = 0, seq: int = 0, run_id: str = RUN) -> Shard:
    """A shard whose lease is ours."""
    shard = store.acquire(run_id, index, seq, lease=LEASE)
    assert shard is not None
    return shard


def finish(store: Store, index: int = 0, run_id: str = RUN) -> None:
    """Let a shard be DONE."""
    shard = take(store, index, load_shard(store, index, run_id).seq, run_id)
    assert store.complete(shard, walked("9"))


def move(store: Store, to: RunState, run_id: str = RUN) -> None:
    assert store.change_run(run_id, to=to, only_from=list(RunState))


def walked(
    cursor: str | None,
    done: int = 0,
    failed: int = 0,
    skipped: int = 0,
    is_walked: bool = False,
    **values: Any,
) -> Walked:
    return Walked(
        cursor=cursor,
        done=done,
        failed=failed,
        skipped=skipped,
        is_walked=is_walked,
        **values,
    )


def failure(
    key: str,
    state: FailureState = FailureState.WAITING,
    shard: int = 0,
    run_id: str = RUN,
    **values: Any,
) -> RowFailure:
    return RowFailure(run=run_id, shard=shard, key=key, state=state, **values)


def record(store: Store, one: RowFailure, *, delay: timedelta) -> None:
    """Insert or replace the failure of a row, as a checkpoint does beside its shard."""
    store.swap("Recording a row", lambda swap: swap.put_failure(one, delay))


def keys(failures: list[RowFailure]) -> list[str]:
    return [one.key for one in failures]
