"""Chains and groups in tests: assertions on the whole, reports as trees, `eager()`."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any
from unittest.mock import ANY

import pytest
from django.db import transaction

from cloudtask import chain, deferred, group
from cloudtask.testing import (
    Faults,
    assert_enqueued,
    assert_not_enqueued,
    eager,
    enqueues,
    run_queued,
)
from tests.workflows import tasks
from tests.workflows.trees import tree

pytest_plugins = ["tests.stores.datastore_fixtures"]

Make = Callable[[], Any]


def double(value: int) -> int:
    return 2 * value


def orders() -> Any:
    return chain(
        tasks.give.s(1),
        group(tasks.pair.s(1), chain(tasks.pair.s(2), tasks.collect.s())),
        tasks.add.using(queue="mail").si(1, b=2),
        on_failure=tasks.note_failure.s("tag"),
    )


WHOLES: list[Make] = [
    orders,
    lambda: chain(tasks.give.s(1)),
    lambda: group(tasks.give.s(1)),
    lambda: group(tasks.give.s(n) for n in range(12)).then(tasks.collect.s()),
    lambda: group(group(tasks.give.s(1)), chain(tasks.give.s(1), tasks.add.s())),
    lambda: group(group([]), tasks.give.s(2), on_failure=tasks.note_failure.s()),
    lambda: group(tasks.give.s(1), partial=True).using(queue="mail", countdown=5),
    lambda: chain(deferred.s(double, -1), deferred.s(double)),
]


@pytest.mark.parametrize("make", WHOLES)
def test_a_whole_that_waits_is_found(anywhere: str, make: Make) -> None:
    for other in WHOLES:
        if other is not make:
            other().defer()
    assert_not_enqueued(make())
    make().defer()
    make().defer()

    assert assert_enqueued(make(), count=2) is not None


@pytest.mark.parametrize("seed", range(25))
def test_any_tree_is_found_again(db: None, seed: int) -> None:
    made, _ = tree(Random(seed), 4)
    whole = made if hasattr(made, "parts") else chain(made)
    if not whole.parts:
        whole = whole.then(tasks.collect.s())  # else nothing has to be enqueued
    other, _ = tree(Random(seed + 1000), 4)
    (other if hasattr(other, "parts") else chain(other)).defer()
    whole.defer()

    assert assert_enqueued(whole)


@pytest.mark.parametrize(
    ("expected", "told"),
    [
        (lambda: chain(tasks.give.s(2), tasks.add.s()), "step 1: value=1 instead of 2"),
        (lambda: chain(tasks.give.s(1), tasks.add.s(5)), "step 2: b=1 instead of 5"),
        (lambda: chain(tasks.give.s(1), tasks.add.si(1)), "step 2: <"),
        (lambda: chain(tasks.give.s(1), tasks.pair.s(1)), "step 2: <"),
        (lambda: chain(tasks.give.s(1)), "add.s(...)> follows"),
        (
            lambda: chain(tasks.give.s(1), tasks.add.s(), tasks.add.s()),
            "step 3: nothing instead of",
        ),
        (
            lambda: chain(tasks.give.s(1), tasks.add.using(queue="mail").s()),
            "step 2: queue='default' instead of 'mail'",
        ),
        (
            lambda: chain(
                tasks.give.s(1), tasks.add.s(), on_failure=tasks.note_failure.s()
            ),
            "on_failure: None instead of",
        ),
        (lambda: group(tasks.give.s(1)), "instead of group"),
        (lambda: chain(tasks.give.s(1), group(tasks.add.s())), "instead of group"),
    ],
)
def test_the_difference_is_told(db: None, expected: Make, told: str) -> None:
    chain(tasks.give.s(1), tasks.add.s()).defer()

    with pytest.raises(AssertionError) as caught:
        assert_enqueued(expected())
    assert told in str(caught.value)
    assert_not_enqueued(expected())


@pytest.mark.parametrize(
    ("expected", "told"),
    [
        (lambda: group(tasks.give.s(1)), "2 members instead of 1"),
        (lambda: group(tasks.give.s(1), tasks.give.s(3)), "member 2: value=2 instead"),
        (
            lambda: group(tasks.give.s(1), tasks.give.s(2), partial=True),
            "partial=False instead of True",
        ),
        (lambda: chain(tasks.give.s(1)), "a group of 2 instead of"),
    ],
)
def test_the_difference_of_a_group_is_told(
    anywhere: str, expected: Make, told: str
) -> None:
    group(tasks.give.s(1), tasks.give.s(2)).defer()

    with pytest.raises(AssertionError) as caught:
        assert_enqueued(expected())
    assert told in str(caught.value)


def test_any_argument_may_be_left_open(db: None) -> None:
    orders().defer()

    assert_enqueued(
        chain(
            tasks.give.s(ANY),
            group(tasks.pair.s(ANY), chain(tasks.pair.s(2), tasks.collect.s())),
            tasks.add.si(ANY),
            on_failure=tasks.note_failure.s(),
        )
    )


def test_the_count_must_agree(db: None) -> None:
    chain(tasks.give.s(1)).defer()
    with pytest.raises(AssertionError, match="was enqueued 1x"):
        assert_enqueued(chain(tasks.give.s(1)), count=2)
    with pytest.raises(AssertionError, match="was enqueued 1x"):
        assert_not_enqueued(chain(tasks.give.s(1)))
    with pytest.raises(TypeError, match="in its signatures"):
        assert_enqueued(chain(tasks.give.s(1)), 1)


@pytest.mark.parametrize("make", [WHOLES[0], WHOLES[3], WHOLES[4]])
def test_one_that_has_begun_is_no_whole(anywhere: str, make: Make) -> None:
    make().defer()
    run_queued(recursive=False)

    assert_not_enqueued(make())


@pytest.mark.parametrize("make", WHOLES[2:])
def test_a_block_enqueues_a_whole(db: None, make: Make) -> None:
    with enqueues(make(), count=1) as calls:
        make().defer()
    assert calls

    with pytest.raises(AssertionError, match="was not enqueued"), enqueues(make()):
        pass


def test_a_whole_that_was_rolled_back_is_not_found(db: None) -> None:
    with transaction.atomic():
        group(tasks.give.s(1)).defer()
        orders().defer()
        transaction.set_rollback(True)
    assert_not_enqueued(group(tasks.give.s(1)))
    assert_not_enqueued(orders())


# Reports


def shape(text: str) -> list[str]:
    """The lines of a tree without ids and the paths of tasks."""
    path = tasks.__name__ + "."
    return [line.replace(path, "") for line in text.splitlines()[1:]]


def test_a_report_shows_a_tree(anywhere: str) -> None:
    tasks.broken.add(2)
    inner = chain(tasks.give.si(2), tasks.fragile.s())
    receipt = chain(
        tasks.give.s(1), group(tasks.pair.s(1), inner), tasks.collect.s()
    ).defer()
    report = run_queued(errors="retry")

    [whole] = report.workflows
    assert whole.id == receipt.id
    assert str(whole).startswith(f"chain {receipt.id}")
    assert shape(str(whole)) == [
        "    1. give succeeded",
        "    2. group",
        "        [1] pair succeeded",
        "        [2] 1. give succeeded",
        "            2. fragile failed, exhausted: ValueError('2 is broken')",
    ]
    assert len(whole.attempts) == 5
    assert str(whole).splitlines()[1] in repr(report)


def test_groups_inside_groups_and_empty_ones_are_shown(db: None) -> None:
    inner = group(tasks.give.s(1), tasks.give.s(2))
    chain(group(inner, inner), group([]), tasks.collect.s()).defer()
    report = run_queued()

    text = str(report.workflows[0])
    assert text.startswith("group ")
    assert text.count("give succeeded") == 4
    assert "collect succeeded" in text


def test_large_groups_are_shortened(db: None) -> None:
    group(tasks.give.s(n) for n in range(25)).then(tasks.collect.s()).defer()

    text = str(run_queued().workflows[0])
    assert "... and 15 more members" in text
    assert "2. tests.workflows.tasks.collect succeeded" in text


def test_plain_calls_are_no_workflows(db: None) -> None:
    tasks.give.defer(1)
    assert run_queued().workflows == []


@pytest.mark.parametrize("via", ["direct", "http"])
def test_a_tree_is_shown_however_it_is_delivered(db: None, via: Any) -> None:
    chain(tasks.give.s(1), tasks.add.s()).defer()
    report = run_queued(via=via, faults=Faults(duplicate=0.5, seed=4))

    assert "2. tests.workflows.tasks.add succeeded" in str(report.workflows[0])


# eager()


@pytest.mark.parametrize("seed", range(15))
def test_any_tree_runs_at_once(db: None, seed: int) -> None:
    made, plain = tree(Random(seed), 4)
    with eager():
        receipt = chain(made, tasks.collect.s()).defer()

    assert receipt.result() == plain(None)


def test_an_error_leaves_defer(db: None) -> None:
    tasks.broken.add(1)
    with eager(), pytest.raises(ValueError, match="1 is broken"):
        chain(tasks.fragile.s(1), tasks.add.s()).defer()
