"""Runs and shards change along their tables, in whatever order things happen."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from random import Random

import pytest

from cloudtask import transitions
from cloudtask.runs import (
    RUN_TRANSITIONS,
    SHARD_TRANSITIONS,
    Run,
    RunState,
    Shard,
    ShardState,
    Walked,
)
from cloudtask.transitions import Moment

NOW = datetime(2026, 11, 28, tzinfo=UTC)
LEASE = timedelta(minutes=5)
MOMENT = Moment(NOW)
LATER = Moment(NOW + 2 * LEASE)
WALKED = Walked(cursor="1", done=1, failed=0, skipped=0)


def run(state: RunState) -> Run:
    return Run(id="a" * 32, task="t", queue="q", state=state, is_planned=True)


def shard(state: ShardState = ShardState.WAITING) -> Shard:
    return Shard(run="a" * 32, index=0, state=state, expected=10)


@pytest.mark.parametrize("before", RunState)
@pytest.mark.parametrize("to", RunState)
def test_a_run_changes_along_its_table_only(before: RunState, to: RunState) -> None:
    changed = transitions.run_changed(
        run(before), MOMENT, to=to, only_from=[before], generation=None, error=None
    )
    settled = transitions.run_settled(
        run(before), MOMENT, fence=0, to=to, error=None, waiting="", delay=None
    )

    assert (changed is not None) is (to in RUN_TRANSITIONS[before])
    assert (settled is not None) is (to in RUN_TRANSITIONS[before])


def _steps(held: Shard) -> list[Callable[[Shard, Moment], Shard | None]]:
    def leased(found: Shard, at: Moment) -> Shard | None:
        budget = LEASE / 2
        return transitions.shard_leased(
            found, at, seq=found.seq, lease=LEASE, budget=budget
        )

    def renumbered(found: Shard, at: Moment) -> Shard | None:
        return transitions.shard_renumbered(found, at, seen=found, sweeps=1)

    return [
        leased,
        renumbered,
        lambda found, at: transitions.completed(found, at, held=held, walked=WALKED),
        lambda found, at: transitions.released(
            found, at, held=held, walked=WALKED, split=None
        ),
        lambda found, at: transitions.given_back(
            found, at, held=held, walked=None, is_killed=False
        ),
        lambda found, at: transitions.given_back(
            found, at, held=held, walked=WALKED, is_killed=True
        ),
        lambda found, at: transitions.checkpointed(
            found, at, held=held, walked=WALKED, lease=LEASE, suspect=None
        ),
    ]


@pytest.mark.parametrize("seed", range(20))
def test_a_shard_changes_along_its_table_and_its_numbers_only_grow(seed: int) -> None:
    random = Random(seed)
    found = held = shard()
    for hours in range(200):
        at = Moment(NOW + random.choice([0, 1]) * LEASE + timedelta(hours=hours // 2))
        after = random.choice(_steps(held))(found, at)
        if after is None:
            continue
        same = after.state is found.state
        assert same or after.state in SHARD_TRANSITIONS[found.state]
        assert (after.seq, after.fence) >= (found.seq, found.fence)
        if after.fence > found.fence:
            held = after
        found = after


def test_a_lease_is_live_for_as_long_as_clocks_may_differ() -> None:
    skewed = Moment(NOW, timedelta(seconds=2))

    assert skewed.is_live(NOW - timedelta(seconds=1))
    assert not skewed.is_live(NOW - timedelta(seconds=3))
    assert not MOMENT.is_live(NOW - timedelta(seconds=1))
    assert not MOMENT.is_live(None)


def test_a_row_that_outlasts_the_lease_keeps_the_shard_until_its_deadline() -> None:
    taken = transitions.shard_leased(
        shard(), MOMENT, seq=0, lease=LEASE, budget=4 * LEASE
    )

    assert taken is not None
    assert not LATER.is_live(taken.lease_until)
    assert transitions.may_be_walked(taken, LATER)
    assert not transitions.may_be_walked(taken, Moment(NOW + 5 * LEASE))


def test_who_lost_the_lease_changes_nothing() -> None:
    first = transitions.shard_leased(
        shard(), MOMENT, seq=0, lease=LEASE, budget=timedelta(0)
    )
    assert first is not None
    second = transitions.shard_leased(
        first, LATER, seq=0, lease=LEASE, budget=timedelta(0)
    )
    assert second is not None
    assert second.deaths == 1

    leases = _steps(first)[2:]

    assert [step(second, LATER) for step in leases] == [None] * len(leases)
