"""Hazards of chains, groups and schedules that break other libraries.

TABLE says which test shows each one. Of W17, a crash inside `defer()` is shown by W23.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.core.management import call_command

from cloudtask import chain, envelope, failpoints, group, task
from cloudtask.exceptions import ConfigurationError
from cloudtask.models import OutboxMessage
from cloudtask.sending import relay
from cloudtask.stores import store
from cloudtask.testing import Faults, crash_at, run_queued
from cloudtask.transports import memory
from cloudtask.workflows.enqueueing import _lines
from tests.durability.database import committing
from tests.support import clock
from tests.workflows import tasks

pytest_plugins = ["tests.stores.datastore_fixtures"]

TESTS = Path(__file__).parents[1]
CHAINS, GROUPS = "workflows/test_chains.py", "workflows/test_groups.py"
TREES, HERE = "workflows/test_trees.py", "workflows/test_hazards.py"
CANCEL = "workflows/test_cancel.py"
TICKING, OCCURRENCES = "schedules/test_ticking.py", "schedules/test_occurrences.py"

TABLE = {
    "W1 an empty group": (GROUPS, "test_a_group_of_any_size_makes_a_list"),
    "W2 an empty part": (HERE, "test_w2_an_empty_group_hands_on_an_empty_list"),
    "W3 a group of one": (GROUPS, "test_a_group_of_any_size_makes_a_list"),
    "W4 a member retries": (GROUPS, "test_values_come_in_the_order_of_the_members"),
    "W5 a redelivery": (HERE, "test_w5_a_member_that_is_delivered_twice_counts_once"),
    "W6 two last": (GROUPS, "test_two_last_members_at_once_lead_to_then_once"),
    "W7 a chain in a group fails": (
        GROUPS,
        "test_a_chain_that_fails_inside_a_group_is_told_to_all_around_it",
    ),
    "W8 on_failure": (
        CHAINS,
        "test_on_failure_is_called_once_for_each_failure_that_is_kept",
    ),
    "W9 a crash at a hand-over": (TREES, "test_a_crash_at_any_point_loses_nothing"),
    "W10 a retry": (CHAINS, "test_a_retry_of_the_task_itself_drops_nothing"),
    "W11 another value": (
        CHAINS,
        "test_a_redelivery_with_another_value_does_not_change_what_was_handed_on",
    ),
    "W12 size": (HERE, "test_w12_each_further_group_adds_its_own_lines_only"),
    "W13 recursion": (CHAINS, "test_a_chain_of_a_thousand_steps_runs"),
    "W14 order": (GROUPS, "test_values_come_in_the_order_of_the_members"),
    "W15 values in nests": (TREES, "test_a_tree_gives_what_plain_calls_give"),
    "W16 then twice": (GROUPS, "test_two_last_members_at_once_lead_to_then_once"),
    "W17 half a group": (
        CHAINS,
        "test_every_signature_is_checked_before_anything_is_sent",
    ),
    "W18 results expire": (
        HERE,
        "test_w18_a_group_outlives_the_results_of_its_members",
    ),
    "W19 a large value": (
        CHAINS,
        "test_a_value_that_is_too_large_fails_its_step_at_once",
    ),
    "W20 a cancelled member": (
        CANCEL,
        "test_a_cancelled_member_fails_its_group_and_keeps_the_others",
    ),
    "W20 a cancelled group": (
        CANCEL,
        "test_members_that_have_not_begun_do_not_and_then_never_runs",
    ),
    "W21 another version": (HERE, "test_w21_a_call_of_another_version_waits_for_it"),
    "W22 rolled back": (CHAINS, "test_a_rollback_drops_chains_and_groups"),
    "W23 a missing record": (
        HERE,
        "test_w23_no_member_is_sent_before_the_record_of_its_group",
    ),
    "W24 two beats": (TICKING, "test_eight_ticks_at_once_make_one_call"),
    "W25 another relay": (
        TICKING,
        "test_two_relays_tick_for_a_month_over_both_changes_of_the_clock",
    ),
    "W26 mark without call": (
        TICKING,
        "test_a_crash_loses_no_call_and_makes_none_twice",
    ),
    "W27 the clock changes": (
        OCCURRENCES,
        "test_the_moments_are_those_of_a_plain_search",
    ),
    "W28 enabling": (
        TICKING,
        "test_a_disabled_schedule_is_not_due_and_enabling_makes_up_for_nothing",
    ),
    "W29 removed": (TICKING, "test_a_schedule_that_no_code_declares_is_not_due"),
    "W30 changed": (
        TICKING,
        "test_a_changed_schedule_does_not_make_up_for_the_past",
    ),
    "W31 floods": (
        TICKING,
        "test_a_tick_makes_at_most_twenty_calls_and_the_next_one_the_rest",
    ),
    "W32 unique beside a schedule": (
        HERE,
        "test_w32_unique_beside_a_schedule_is_refused",
    ),
    "W32 overlap decides": (
        "schedules/test_overlap.py",
        "test_a_call_that_is_due_while_another_runs",
    ),
}


@pytest.mark.parametrize("hazard", TABLE)
def test_the_table_names_tests_that_exist(hazard: str) -> None:
    file, name = TABLE[hazard]
    tree = ast.parse((TESTS / file).read_text(encoding="utf-8"))
    assert name in {n.name for n in tree.body if isinstance(n, ast.FunctionDef)}


def test_w2_an_empty_group_hands_on_an_empty_list(anywhere: str) -> None:
    receipt = chain(tasks.give.s(5), group([]), tasks.pair.s(1)).defer()
    run_queued()

    assert receipt.result() == ([], 1)


class CountingJoin:
    """Counts deliveries, as a barrier without rows does."""

    def __init__(self, total: int) -> None:
        self.left = total
        self.values: list[int] = []
        self.joined: list[list[int]] = []

    def deliver(self, value: int) -> None:
        self.values.append(value)
        self.left -= 1
        if self.left == 0:
            self.joined.append([*self.values])


def test_w5_a_member_that_is_delivered_twice_counts_once(anywhere: str) -> None:
    naive = CountingJoin(3)
    for value in (1, 1, 2, 3):  # the first one is delivered twice
        naive.deliver(value)
    assert naive.joined == [[1, 1, 2]]  # 3 is missing

    receipt = group(tasks.give.s(n) for n in (1, 2, 3)).then(tasks.collect.s()).defer()
    run_queued(faults=Faults(duplicate=1.0, seed=1), errors="retry")

    assert tasks.seen.count(("give", 1)) > 1
    assert receipt.result() == [1, 2, 3]


def _size(groups: int) -> int:
    """Bytes that travel for a chain with that many groups of ten."""
    parts = [group(tasks.pair.s(n) for n in range(10)) for _ in range(groups)]
    lines = _lines(chain(tasks.give.s(1), *parts), "", is_given=False)
    return sum(map(len, lines))


def test_w12_each_further_group_adds_its_own_lines_only() -> None:
    one, two, five = _size(1), _size(2), _size(5)

    assert five - one == 4 * (two - one)


@pytest.fixture
def commits(db: None, tmp_path: Path) -> Iterator[None]:
    with committing(tmp_path):
        yield


class JoinOfResults:
    """Reads the members' results once the last one has ended, as a backend does."""

    def __init__(self, *keys: str) -> None:
        self.keys = keys

    def join(self) -> list[object]:
        found = [store().load_result(key) for key in self.keys]
        return [one.value if one is not None else None for one in found]


@pytest.mark.django_db(databases=["default", "other"])
def test_w18_a_group_outlives_the_results_of_its_members(anywhere: str) -> None:
    brief = tasks.give.using(keep_result=timedelta(hours=1))
    members = [brief.s(1), brief.s(2), tasks.give.using(countdown=86400 * 3).s(3)]
    receipt = group(members).then(tasks.collect.s()).defer()
    run_queued(until=timedelta(hours=1))
    naive = JoinOfResults(*(one.id for one in _kept()))
    assert None not in naive.join()

    with clock.ahead(86400.0 * 2):
        call_command("cloudtask_prune", verbosity=0)
        assert naive.join() == [None, None]  # what expired is lost to it
    run_queued()

    assert receipt.result() == [1, 2, 3]


def _kept() -> list[Any]:
    return [*store().page_results(limit=10).items]


@pytest.mark.django_db(databases=["default", "other"])
def test_w21_a_call_of_another_version_waits_for_it(
    commits: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A relay of the version that a deploy replaces must not give up newer rows."""
    with crash_at("outbox.committed"), pytest.raises(failpoints.Crashed):
        chain(tasks.give.s(1), tasks.add.s()).using(transactional=True).defer()
    with monkeypatch.context() as older, clock.ahead(60.0):
        older.setattr(envelope, "VERSION", envelope.VERSION - 1)
        assert relay.relay("default").postponed == 1
    [row] = OutboxMessage.objects.all()
    assert row.state == OutboxMessage.State.WAITING
    assert "A newer one may send it" in row.error

    with clock.ahead(600.0):
        assert relay.relay("default").sent == 1
    run_queued()
    assert tasks.seen == [("give", 1), ("add", 1, 1)]


@pytest.mark.django_db(databases=["default", "other"])
def test_w21_a_row_that_no_version_takes_is_parked_in_the_end(
    commits: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    with crash_at("outbox.committed"), pytest.raises(failpoints.Crashed):
        tasks.give.using(transactional=True).defer(1)
    OutboxMessage.objects.update(attempts=relay.A_DEPLOY - 1)
    monkeypatch.setattr(envelope, "VERSION", envelope.VERSION - 1)

    with clock.ahead(60.0):
        assert relay.relay("default").parked == 1


AT_FIRST = ("outbox.added", "outbox.committed", "outbox.sent")
IN_BETWEEN = ("chain.before_next", "enqueue.before_send", "enqueue.after_send")
POINTS = [
    *(("first", point) for point in AT_FIRST),
    *(("after a step", point) for point in IN_BETWEEN),
]


@pytest.mark.django_db(databases=["default", "other"])
@pytest.mark.parametrize(("where", "point"), POINTS)
def test_w23_no_member_is_sent_before_the_record_of_its_group(
    commits: None, where: str, point: str
) -> None:
    members = group(tasks.give.si(n) for n in range(3)).then(tasks.collect.s())
    whole = members if where == "first" else chain(tasks.nothing.s(), members)
    receipt = None
    try:
        with crash_at(point):
            receipt = whole.defer()
            run_queued(recursive=False)
    except failpoints.Crashed:
        pass

    for entry in memory.queue():
        if entry.message.group is not None:
            assert store().load_group(entry.message.group) is not None
    with clock.ahead(600.0):
        relay.relay("default")
        run_queued(errors="retry")
    # All of it has run, or, of a transaction that was never committed, nothing.
    assert [one for one in tasks.seen if one[0] == "collect"][:1] in (
        [("collect", [0, 1, 2])],
        [],
    )
    assert receipt is None or receipt.result() == [0, 1, 2]


def test_w32_unique_beside_a_schedule_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="both schedule and unique"):
        task(schedule="0 0 * * *", unique=True)(_nightly)


def _nightly() -> None: ...
