"""A call is cancelled by its id alone, from code, by the command and on its page."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.core.management import CommandError, call_command

from cloudtask import Cancellation, acancel, cancel, chain, failpoints, group
from cloudtask.exceptions import CloudTaskError
from cloudtask.inspect import CallState, find
from cloudtask.models import OutboxMessage
from cloudtask.testing import crash_at, queued, run_queued
from tests.iteration.tasks import visit as walk
from tests.receipts import tasks
from tests.testapp.models import Author

pytestmark = pytest.mark.django_db(databases=["default", "other"])

PREVENTED, TOO_LATE, REQUESTED = Cancellation


DEFERS: dict[str, Callable[[], Any]] = {
    "cancellable": lambda: tasks.stoppable.defer(),
    "atomic": lambda: tasks.write.defer("a"),
    "plain": lambda: tasks.forgetful.defer(),
    "chain": lambda: chain(tasks.echo.s(1), tasks.echo.s()).defer(),
    "cancellable chain": lambda: chain(tasks.echo.s(1)).using(cancellable=True).defer(),
    "atomic chain": lambda: chain(tasks.echo.s("a"), tasks.write.s()).defer(),
    "group": lambda: group(tasks.echo.s(n) for n in range(3)).defer(),
    "group in a chain": lambda: chain(
        group(tasks.echo.s(n) for n in range(3)), tasks.echo.s()
    ).defer(),
}
EXACT = {"cancellable", "atomic", "cancellable chain", "group", "group in a chain"}


@pytest.mark.parametrize("kind", DEFERS)
def test_a_call_that_waits_does_not_begin(anywhere: str, kind: str) -> None:
    receipt = DEFERS[kind]()

    assert cancel(receipt.id) is (PREVENTED if kind in EXACT else REQUESTED)
    assert {one.outcome.name for one in run_queued().attempts} <= {"CANCELLED"}
    assert find(receipt.id).state in (CallState.CANCELLED, CallState.UNKNOWN)
    assert not Author.objects.exists()


def test_a_call_that_has_ended_is_too_late(anywhere: str) -> None:
    receipts = [tasks.echo.defer(1), tasks.write.defer("a"), tasks.hopeless.defer()]
    run_queued(errors="retry")

    assert {cancel(one.id) for one in receipts} == {TOO_LATE}


def test_a_call_in_the_outbox_is_withdrawn(commits: None) -> None:
    with crash_at("outbox.committed"), pytest.raises(failpoints.Crashed):
        tasks.stoppable.using(transactional=True).defer()
    [row] = OutboxMessage.objects.all()

    assert cancel(row.key) is PREVENTED
    assert not OutboxMessage.objects.exists()


def test_a_chain_is_cancelled_at_its_second_step(anywhere: str) -> None:
    receipt = chain(tasks.echo.s(1), tasks.counted.si(), tasks.counted.si()).defer()
    run_queued(recursive=False)

    assert cancel(receipt.id) is REQUESTED
    run_queued()
    assert tasks.asked == []


def test_a_chain_whose_step_has_failed_does_not_go_on(db: None) -> None:
    tasks.broken.add("fragile")
    receipt = chain(tasks.fragile.s("a"), tasks.counted.si()).defer()
    run_queued(errors="retry")
    failed = find(receipt.id).step
    tasks.broken.clear()

    assert cancel(receipt.id) is REQUESTED
    call_command("cloudtask_failed", "retry", str(failed))
    run_queued()
    assert tasks.asked == []


def test_a_member_is_cancelled_by_its_own_id(anywhere: str) -> None:
    members = [tasks.stoppable.si(), tasks.stoppable.si(), tasks.counted.si()]
    group(members).then(tasks.counted.si()).defer()
    first, _, plain = [one.id for one in queued()]

    assert cancel(first) is PREVENTED
    with pytest.raises(CloudTaskError, match="neither cancellable nor atomic"):
        cancel(plain)
    run_queued()
    assert tasks.asked.count("end") == 1
    assert len(tasks.asked) == 3  # one of each kind, and nothing after them


def test_what_is_unknown_or_belongs_to_another_part_is_refused(db: None) -> None:
    with pytest.raises(CloudTaskError, match="Nothing waits with the id"):
        cancel("0" * 32)
    walk.iterate(Author.objects.all())
    with pytest.raises(CloudTaskError, match="cloudtask_iterations cancel"):
        cancel(queued()[0].id)


def test_asynchronous_code_awaits_it(db: None) -> None:
    assert async_to_sync(acancel)(tasks.stoppable.defer().id) is PREVENTED


def test_the_command_says_for_each_id_what_it_has_reached(
    db: None, capsys: pytest.CaptureFixture[str]
) -> None:
    done = tasks.echo.defer(1)
    run_queued()
    ids = [tasks.stoppable.defer().id, tasks.forgetful.defer().id]

    call_command("cloudtask_cancel", *ids)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{ids[0]}  PREVENTED: it does not begin"
    assert lines[1].startswith(f"{ids[1]}  REQUESTED: it may have begun")

    with pytest.raises(CommandError, match="2 of 2 were not cancelled") as caught:
        call_command("cloudtask_cancel", done.id, "nothing", "--json")
    answers = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [one["answer"] for one in answers] == ["TOO_LATE", "REFUSED"]
    assert "Nothing waits" in answers[1]["why"]
    assert caught.value.returncode == 1


@pytest.mark.parametrize("function", [cancel, find])
def test_a_receipt_in_the_place_of_an_id_is_refused(
    anywhere: str, function: Callable[[Any], object]
) -> None:
    receipt = tasks.stoppable.defer()
    with pytest.raises(TypeError, match=r"a str, not Receipt: give the receipt's \.id"):
        function(receipt)
    assert find(receipt.id).state is CallState.QUEUED
