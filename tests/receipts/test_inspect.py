"""`cloudtask.inspect` says where a call is, in each of its states."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.db import transaction

from cloudtask import (
    Cancellation,
    TaskFailed,
    cancel,
    chain,
    failpoints,
    group,
    inspect,
)
from cloudtask.inspect import CallState, FoundCall, find, finding
from cloudtask.models import OutboxMessage
from cloudtask.sending import relay
from cloudtask.stores import store
from cloudtask.testing import crash_at, run_queued
from tests.receipts import tasks
from tests.support import clock

pytestmark = pytest.mark.django_db(databases=["default", "other"])


def state(receipt: Any) -> CallState:
    return find(receipt.id).state


# Each state


def test_a_call_of_the_open_transaction_awaits_its_commit(commits: None) -> None:
    with transaction.atomic():
        receipt = tasks.echo.defer(1)
        assert state(receipt) is CallState.AWAITS_COMMIT

    assert state(receipt) is CallState.QUEUED


def test_a_call_that_was_not_sent_is_in_the_outbox(commits: None) -> None:
    with crash_at("outbox.committed"), pytest.raises(failpoints.Crashed):
        tasks.forgetful.using(transactional=True).defer()
    [row] = OutboxMessage.objects.all()

    found = find(row.key)

    assert found.state is CallState.OUTBOX
    assert found.database == "default"
    assert [one.key for one in inspect.outbox()] == [row.key]


def test_a_call_that_the_queue_refuses_is_parked(
    commits: None,
) -> None:
    with crash_at("outbox.committed"), pytest.raises(failpoints.Crashed):
        tasks.forgetful.using(transactional=True).defer()
    [row] = OutboxMessage.objects.all()
    row.envelope = b"?"
    row.save()
    with clock.ahead(60.0):
        relay.relay("default")

    found = find(row.key)

    assert (found.state, found.task) == (CallState.PARKED, tasks.forgetful.path)
    assert found.error


def test_a_call_waits_in_the_queue_and_is_dispatched(anywhere: str) -> None:
    receipt = tasks.forgetful.using(countdown=60).defer()
    seen: list[FoundCall] = []
    waiting = find(receipt.id)

    with failpoints.at("execute.before_call", lambda: seen.append(find(receipt.id))):
        run_queued()

    assert waiting.state is CallState.QUEUED
    assert waiting.due_at is not None
    assert (waiting.task, waiting.queue) == (tasks.forgetful.path, "default")
    assert [one.state for one in seen] == [CallState.DISPATCHED]
    assert state(receipt) is CallState.UNKNOWN  # it has succeeded, and left no trace


def test_a_call_has_succeeded(anywhere: str) -> None:
    receipts = [tasks.echo.defer(1), tasks.write.defer("a")]
    run_queued()

    assert {state(one) for one in receipts} == {CallState.SUCCEEDED}


def test_an_atomic_call_without_a_result_has_succeeded(db: None) -> None:
    receipt = tasks.write.using(keep_result=None).defer("a")
    run_queued()

    assert state(receipt) is CallState.SUCCEEDED


def test_a_call_has_failed_and_its_arguments_are_masked(anywhere: str) -> None:
    receipt = tasks.secretive.defer(1, password="hunter2")
    before = find(receipt.id)
    run_queued(errors="retry")

    found = find(receipt.id)

    assert found.state is CallState.FAILED
    assert "not with 1" in found.error
    assert "password='********'" in found.arguments == before.arguments
    assert "hunter2" not in repr((before, found))
    assert [one.key for one in inspect.failed()] == [receipt.id]


def test_a_call_that_repeats_itself_is_found_under_its_id(db: None) -> None:
    tasks.broken.add("Retry")
    receipt = tasks.stoppable.defer()
    run_queued(recursive=False)

    found = find(receipt.id)

    assert (found.state, found.name) == (CallState.QUEUED, f"{receipt.id}-1")
    assert find(f"{receipt.id}-1") == found


@pytest.mark.parametrize("name", ["stoppable", "write"])
def test_a_cancelled_call_is_cancelled(db: None, name: str) -> None:
    task = getattr(tasks, name).using(transactional=False)
    receipt = task.defer(*(["a"] if name == "write" else []))
    receipt.cancel()

    found = find(receipt.id)

    assert (found.state, found.is_cancelled) == (CallState.CANCELLED, True)
    run_queued()
    assert state(receipt) is CallState.CANCELLED


def test_a_call_that_runs_on_after_a_cancel_says_both(db: None) -> None:
    receipt = tasks.stoppable.using(keep_result=None).defer()
    seen: list[FoundCall] = []

    def look() -> None:
        receipt.cancel()
        seen.append(find(receipt.id))

    with failpoints.at("execute.before_call", look):
        run_queued()

    [found] = seen
    assert (found.state, found.is_cancelled) == (CallState.DISPATCHED, True)


def test_a_call_that_had_ended_before_a_cancel_is_not_cancelled(anywhere: str) -> None:
    receipt = tasks.stoppable.using(keep_result=None).defer()
    run_queued()

    assert receipt.cancel() is Cancellation.REQUESTED
    found = find(receipt.id)

    assert (found.state, found.is_cancelled) == (CallState.UNKNOWN, True)
    assert cancel(receipt.id) is Cancellation.REQUESTED


@pytest.mark.parametrize("is_exact", [True, False])
def test_a_chain_that_had_ended_before_a_cancel_is_not_cancelled(
    anywhere: str, is_exact: bool
) -> None:
    steps = chain(tasks.forgetful.s(), tasks.forgetful.si())
    receipt = steps.using(cancellable=is_exact).defer()
    run_queued()

    assert receipt.cancel() is Cancellation.REQUESTED
    found = find(receipt.id)

    assert (found.state, found.is_cancelled) == (CallState.UNKNOWN, True)
    assert cancel(receipt.id) is Cancellation.REQUESTED


@pytest.mark.parametrize("key", ["0" * 32, "nothing", "", "%", "a\0b"])
def test_an_id_of_nothing_is_unknown(db: None, key: str) -> None:
    assert find(key).state is CallState.UNKNOWN


# Chains and groups


def test_a_chain_is_found_at_its_current_step(anywhere: str) -> None:
    receipt = chain(tasks.echo.s(1), tasks.echo.s(), tasks.forgetful.si()).defer()
    steps = []
    for _ in range(3):
        found = find(receipt.id)
        steps.append((found.state, found.task, found.chain))
        run_queued(recursive=False)

    assert [state for state, _, _ in steps] == [CallState.QUEUED] * 3
    assert [task for _, task, _ in steps] == [
        tasks.echo.path,
        tasks.echo.path,
        tasks.forgetful.path,
    ]
    assert {one for _, _, one in steps} == {receipt.id}


def test_a_group_is_found_while_its_members_run(anywhere: str) -> None:
    receipt = group(tasks.echo.s(n) for n in range(3)).then(tasks.echo.s()).defer()
    assert state(receipt) is CallState.QUEUED
    receipt.cancel()

    assert state(receipt) is CallState.CANCELLED


def cancelled_by_the_first_step(make: Any) -> tuple[Any, FoundCall]:
    """A chain or group that is cancelled while its first step runs, and what was found
    at that moment."""
    made = make()
    receipt = made.defer()
    seen: list[FoundCall] = []

    def look() -> None:
        receipt.cancel()
        seen.append(find(receipt.id))

    with failpoints.at("execute.before_call", look):
        run_queued(errors="retry")
    return receipt, seen[0]


def a_group() -> Any:
    members = [tasks.stoppable.s(), tasks.forgetful.s(), tasks.forgetful.s()]
    return group(members).then(tasks.echo.s())


def a_chain() -> Any:
    return chain(tasks.stoppable.s(), tasks.forgetful.si()).using(cancellable=True)


@pytest.mark.parametrize("make", [a_group, a_chain])
def test_a_step_runs_on_after_a_cancel_of_all(anywhere: str, make: Any) -> None:
    tasks.broken.add("stoppable")
    _, found = cancelled_by_the_first_step(make)

    assert (found.state, found.is_cancelled) == (CallState.DISPATCHED, True)
    assert found.task == tasks.stoppable.path


def test_a_cancelled_group_is_cancelled_when_all_members_have_ended(
    anywhere: str,
) -> None:
    tasks.broken.add("stoppable")
    receipt, _ = cancelled_by_the_first_step(a_group)

    found = find(receipt.id)

    assert (found.state, found.is_cancelled) == (CallState.CANCELLED, True)


def test_the_id_of_a_list_of_groups_leads_to_the_chain_around_it(anywhere: str) -> None:
    inner = group([tasks.echo.s(n) for n in range(3)], partial=True)
    receipt = chain(group([inner, tasks.echo.s(1)]), tasks.echo.s()).defer()
    [*groups] = store().page_groups(limit=10).items

    found = {find(one.id).id for one in groups}

    assert len(groups) == 2
    assert found == {receipt.id}


def test_a_chain_whose_step_has_failed_says_so(anywhere: str) -> None:
    tasks.broken.add("fragile")
    receipt = chain(tasks.fragile.s("a"), tasks.echo.s()).defer()
    run_queued(errors="retry")

    found = find(receipt.id)

    assert found.state is CallState.FAILED


@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("is_deep", [False, True])
def test_a_failed_group_leads_to_the_member_that_has_failed(
    anywhere: str, keep: bool, is_deep: bool
) -> None:
    tasks.broken.add("fragile")
    inner = group([tasks.echo.s(1), tasks.fragile.s("bread")])
    last = tasks.echo if keep else tasks.forgetful
    made = group([tasks.echo.s(2), inner]) if is_deep else inner
    receipt = made.then(last.s() if keep else last.si()).defer()
    run_queued(errors="retry")
    [kept] = inspect.failed()

    found = find(receipt.id)

    assert (found.state, found.task) == (CallState.FAILED, tasks.fragile.path)
    assert (found.id, found.step) == (receipt.id, kept.key)
    assert "no bread today" in found.error
    if keep:
        with pytest.raises(TaskFailed, match=r"group .*tasks\.fragile \(.*no bread"):
            receipt.result()


@pytest.mark.parametrize("partial", [True, False])
def test_a_failed_member_is_the_failure_of_its_group_unless_it_is_partial(
    anywhere: str, partial: bool
) -> None:
    tasks.broken.add("fragile")
    members = [tasks.fragile.s("bread"), tasks.echo.s(1)]
    group(members, partial=partial).then(tasks.echo.s()).defer()  # type: ignore[call-overload]
    [made] = store().page_groups(limit=10).items
    seen: list[bool] = []

    def look() -> None:
        seen.append(finding._failed_member(made.id) is not None)

    with failpoints.at("member.failed", look):
        run_queued(errors="retry")

    assert seen == [not partial]


# Lists


def test_queues_and_their_tasks_are_listed(db: None, settings: Any) -> None:
    settings.CLOUDTASK = {"QUEUES": {"mail": {"rate": "5/s"}, "slow": {}}}
    receipts = [tasks.echo.using(queue="mail").defer(n) for n in range(5)]
    tasks.echo.using(queue="slow", transactional=False).defer(1)

    found = [*inspect.tasks("mail")]

    assert {one.name for one in inspect.queues()} >= {"mail", "slow"}
    assert {one.name for one in found} == {one.name for one in receipts}
    assert {one.task for one in found} == {tasks.echo.path}
    assert len([*inspect.tasks("mail", limit=2)]) == 2
    assert len([*inspect.tasks("slow", limit=None)]) == 1
    assert inspect.stats("slow").tasks == 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        found[0].tries = 7  # type: ignore[misc]


def test_the_outbox_is_read_page_by_page(commits: None) -> None:
    with transaction.atomic():
        for number in range(7):
            tasks.echo.defer(number)
        listed = []
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(inspect, "PAGE", 3)
            listed = [one.key for one in inspect.outbox(limit=None)]
            assert len([*inspect.outbox(limit=4)]) == 4
        assert len(set(listed)) == 7
        assert inspect.outbox() is not None


def test_asynchronous_code_awaits_them(db: None) -> None:
    receipt = tasks.echo.using(transactional=False).defer(1)

    assert async_to_sync(inspect.afind)(receipt.id).state is CallState.QUEUED
    assert len(async_to_sync(inspect.atasks)("default")) == 1
    assert async_to_sync(inspect.aoutbox)() == []
    assert async_to_sync(inspect.afailed)() == []
    assert async_to_sync(inspect.aqueues)()
    assert async_to_sync(inspect.astats)("default").tasks == 1
    assert async_to_sync(inspect.aschedules)() == inspect.schedules()
