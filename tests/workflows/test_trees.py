"""Trees of chains and groups give what plain calls give, whatever the service does."""

from __future__ import annotations

from random import Random

import pytest

from cloudtask import chain, group
from cloudtask.models import WorkflowMember
from cloudtask.testing import Faults, crash_at, eager, run_queued
from tests.testapp.models import Author
from tests.workflows import tasks
from tests.workflows.trees import tree

pytest_plugins = ["tests.stores.datastore_fixtures"]


def made(seed: int, depth: int = 4):
    """A tree that ends with a task that keeps its result, and its value."""
    whole, evaluate = tree(Random(seed), depth)
    return chain(whole, tasks.collect.s()), evaluate(None)


@pytest.mark.parametrize("seed", range(30))
def test_a_tree_gives_what_plain_calls_give(anywhere: str, seed: int) -> None:
    whole, value = made(seed)
    receipt = whole.defer()
    run_queued(limit=5000)

    assert receipt.result() == value


@pytest.mark.parametrize("seed", range(20))
def test_a_tree_gives_the_same_whatever_the_service_does(
    anywhere: str, seed: int
) -> None:
    whole, value = made(seed, depth=3)
    receipt = whole.defer()
    faults = Faults(duplicate=0.4, reorder=0.5, lose_ack=0.3, crash=0.2, seed=seed)
    run_queued(faults=faults, errors="retry", limit=5000)

    assert receipt.result() == value


@pytest.mark.parametrize("seed", range(10))
def test_a_tree_runs_in_an_eager_block(db: None, seed: int) -> None:
    whole, value = made(seed, depth=3)
    with eager():
        receipt = whole.defer()

    assert receipt.result() == value


POINTS = [
    "execute.before_call",
    "execute.before_commit",
    "execute.after_call",
    "execute.before_settle",
    "chain.before_next",
    "chain.after_next",
    "member.saved",
    "group.before_then",
    "group.after_then",
    "enqueue.before_send",
    "enqueue.after_send",
    "outbox.added",
    "outbox.committed",
    "outbox.sent",
    "execute.settled",
]


@pytest.mark.exhaustive(sample=2)
@pytest.mark.parametrize("times", [1, 2, 5])
@pytest.mark.parametrize("point", POINTS)
def test_a_crash_at_any_point_loses_nothing(
    anywhere: str, point: str, times: int
) -> None:
    receipt = chain(
        tasks.give.s(1),
        group(
            chain(tasks.pair.s(1), tasks.pair_atomically.s(2)),
            tasks.pair_atomically.s(3),
            tasks.apair.s(4),
        ),
        tasks.pair_atomically.s(5),
        tasks.collect.s(),
    ).defer()
    run_queued(faults=crash_at(point, times=times), errors="retry", limit=5000)

    assert receipt.result() == ([((1, 1), 2), (1, 3), (1, 4)], 5)
    assert Author.objects.count() == 3  # atomic members have had their effect once
    assert WorkflowMember.objects.count() == 0
