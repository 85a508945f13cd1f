"""Groups: lists in order, `then` once, and what failures of members do."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest

from cloudtask import Receipt, TaskFailed, chain, envelope, group
from cloudtask.chains import handing
from cloudtask.models import FailedTask, WorkflowGroup, WorkflowMember
from cloudtask.stores import store
from cloudtask.stores.groups import StoredGroup, member_place
from cloudtask.testing import Faults, run_queued
from tests.durability.conftest import at_once
from tests.durability.database import committing
from tests.support import clock
from tests.workflows import tasks
from tests.workflows.retrying import retry_failed

pytest_plugins = ["tests.stores.datastore_fixtures"]


def test_values_come_in_the_order_of_the_members(anywhere: str) -> None:
    members = (tasks.patient.s(n) if n % 3 else tasks.give.s(n) for n in range(10))
    receipt = group(members).then(tasks.collect.s()).defer()
    run_queued()

    assert receipt.result() == list(range(10))


@pytest.mark.parametrize("count", [0, 1, 2, 100])
def test_a_group_of_any_size_makes_a_list(anywhere: str, count: int) -> None:
    receipt = group(tasks.add.s(n) for n in range(count)).then(tasks.total.s()).defer()
    run_queued()

    assert receipt.result() == sum(range(1, count + 1))
    assert sum(kind == "total" for kind, *_ in tasks.seen) == 1


@pytest.mark.parametrize("count", [0, 1, 3])
def test_the_list_itself_is_kept(anywhere: str, count: int) -> None:
    members = [tasks.add.s(n) for n in range(count)]
    alone = group(members).using(keep_result=60).defer()
    last = chain(tasks.add.s(0), group([tasks.add.s()] * count)).defer()
    run_queued()

    assert alone.result() == [n + 1 for n in range(count)]
    assert not last.keeps_result


def test_members_of_a_later_group_get_the_value(anywhere: str) -> None:
    receipt = chain(
        tasks.give.s(5),
        group(tasks.pair.s(1), tasks.nothing.si(), chain(tasks.pair.s(2))),
        tasks.collect.s(),
    ).defer()
    run_queued()

    assert receipt.result() == [(5, 1), None, (5, 2)]


def test_then_gets_all_values_under_every_fault(anywhere: str) -> None:
    for seed in range(5):
        tasks.seen.clear()
        receipt = group(tasks.add.s(n) for n in range(6)).then(tasks.total.s()).defer()
        faults = Faults(duplicate=0.5, reorder=0.5, lose_ack=0.3, seed=seed)
        run_queued(faults=faults, errors="retry")

        assert receipt.result() == 21
        totals = [one[1] for one in tasks.seen if one[0] == "total"]
        assert totals
        assert all(values == [1, 2, 3, 4, 5, 6] for values in totals)


def test_a_failed_member_holds_then_and_a_retry_leads_to_it(anywhere: str) -> None:
    tasks.broken.add(2)
    receipt = group(tasks.fragile.s(n) for n in range(4)).then(tasks.total.s()).defer()
    run_queued(errors="retry")
    assert not any(kind == "total" for kind, *_ in tasks.seen)
    with pytest.raises(TaskFailed, match="2 is broken"):
        receipt.result()

    tasks.broken.clear()
    retry_failed()
    run_queued()

    assert receipt.result() == 60
    assert sum(kind == "total" for kind, *_ in tasks.seen) == 1


def test_a_chain_that_fails_inside_a_group_is_told_to_all_around_it(
    anywhere: str,
) -> None:
    tasks.broken.add(2)
    inner = group(chain(tasks.add.s(1), tasks.fragile.s(), tasks.add.s()))
    receipt = chain(
        group(tasks.give.s(1), inner),
        tasks.collect.s(),
        on_failure=tasks.note_failure.s(),
    ).defer()
    run_queued(errors="retry")

    [failure] = tasks.failures
    assert failure.error == "ValueError: 2 is broken"
    with pytest.raises(TaskFailed, match="2 is broken"):
        receipt.result()


def test_a_chain_with_its_own_on_failure_keeps_it(db: None) -> None:
    member = chain(tasks.permanent.s(1), on_failure=tasks.note_failure.s())
    group(member, on_failure=tasks.nothing.si()).defer()
    run_queued(errors="retry")

    assert len(tasks.failures) == 1
    assert tasks.seen == []


def test_a_member_that_is_too_large_is_kept_as_failed(db: None) -> None:
    group(tasks.blob_unkept.s(1_000_001)).then(tasks.collect.s()).defer()
    run_queued(errors="retry")

    [row] = FailedTask.objects.all()
    assert "more than the 1,000,000 that are handed on" in row.error


def test_a_finished_group_leaves_no_values(db: None) -> None:
    group(tasks.give.s("s3cret")).then(tasks.collect.s()).defer()
    run_queued()

    assert WorkflowMember.objects.count() == 0
    [row] = WorkflowGroup.objects.all()
    assert row.is_done
    with clock.ahead(70 * 86400.0):
        handing.decide(row.id)
        assert store().prune_groups(timedelta(days=62), 10) == 1


def last_member_waits() -> Receipt[int]:
    """A group of three, of which the last member has failed and waits for a retry."""
    tasks.broken.add(3)
    members = group(tasks.fragile.s(n) for n in (1, 2, 3))
    receipt = members.then(tasks.total.s()).defer()
    run_queued(errors="retry")
    tasks.broken.clear()
    return receipt


def test_a_swapped_value_is_refused(db: None) -> None:
    receipt = last_member_waits()
    first, second, _ = WorkflowMember.objects.order_by("place")
    WorkflowMember.objects.filter(pk=first.pk).update(value=second.value)
    retry_failed()
    run_queued()

    assert not any(kind == "total" for kind, *_ in tasks.seen)
    with pytest.raises(TaskFailed, match="member 0 is refused"):
        receipt.result()


@pytest.mark.parametrize("total", [1, 2, 4])
def test_a_group_of_another_size_hands_nothing_on(
    db: None, total: int, caplog: pytest.LogCaptureFixture
) -> None:
    last_member_waits()
    WorkflowGroup.objects.update(total=total)
    retry_failed()
    if total > 3:  # the values that are missing
        row = WorkflowMember.objects.earliest("place")
        WorkflowMember.objects.create(group=row.group, place=3, value=row.value)
    run_queued()

    assert not any(kind == "total" for kind, *_ in tasks.seen)
    assert f"rest of {total} members is refused" in caplog.text


@pytest.fixture
def committed(db: None, tmp_path: Path) -> Iterator[None]:
    """Databases that threads share, without a transaction around the test."""
    with committing(tmp_path):
        yield


@pytest.mark.django_db(databases="__all__")
def test_two_last_members_at_once_lead_to_then_once(committed: None) -> None:
    receipt = group(tasks.give.s(1), tasks.give.s(2)).then(tasks.collect.s()).defer()
    found = WorkflowGroup.objects.get()
    for member, value in enumerate((b"1", b"2")):
        place = member_place(found.pk, member)
        sealed = envelope.seal_value(value, place=place)
        store().save_member(found.pk, member, sealed)
    at_once([partial(handing.decide, found.pk)] * 2)
    run_queued()

    assert sum(kind == "collect" for kind, *_ in tasks.seen) == 1
    assert receipt.result() == [1, 2]


@pytest.mark.parametrize("is_partial", [False, True])
@pytest.mark.parametrize("size", [2, 3, 5])
@pytest.mark.django_db(databases="__all__")
def test_of_members_that_end_at_once_the_last_one_finds_all(
    committed: None, size: int, *, is_partial: bool
) -> None:
    for turn in range(10):
        key = f"{size}:{turn}"
        made = StoredGroup(id=key, total=size, rest=b"r", is_partial=is_partial)
        store().create_group(made)
        found: list[bool] = []

        def save(member: int, key: str = key, found: list[bool] = found) -> None:
            has_failed = is_partial and member % 2
            save = store().save_failed_member if has_failed else store().save_member
            found.append(save(key, member, b"value"))

        at_once([partial(save, member) for member in range(size)])

        assert any(found)
        assert len(store().load_members(key)) == size
