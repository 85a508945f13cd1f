"""Chains and groups whose parts someone swaps, moves, repeats or writes into values."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

from cloudtask import TaskFailed, chain, envelope, group
from cloudtask.exceptions import BadSignature
from cloudtask.models import WorkflowGroup, WorkflowMember
from cloudtask.testing import run_queued
from tests.support import recording
from tests.workflows import tasks
from tests.workflows.conftest import TRUSTED
from tests.workflows.retrying import retry_failed


@pytest.fixture
def recorded(settings: Any) -> None:
    recording.sent.clear()
    transport = {"BACKEND": recording.PATH}
    settings.CLOUDTASK = {**TRUSTED, "TRANSPORT": transport}


def body_of(one: Any) -> bytes:
    one.defer()
    return recording.bodies()[-1]


def swapped(mine: bytes, other: bytes) -> Iterator[bytes]:
    """Bodies made of parts of two signed ones."""
    at = envelope.HEADER_SIZE
    head, lines = mine[:at], mine[at:].split(b"\n")
    theirs = other[at:].split(b"\n")
    yield head + other[at:]
    yield other[:at] + mine[at:]
    for place in range(len(lines)):
        yield head + b"\n".join([*lines[:place], theirs[place], *lines[place + 1 :]])
        yield head + b"\n".join([*lines[:place], *lines[place + 1 :]])
        yield head + b"\n".join([*lines[: place + 1], *lines[place:]])
        yield head + b"\n".join([*lines[:place], *reversed(lines[place:])])
    yield head + b"\n".join([*lines, *theirs[2:]])


@pytest.mark.usefixtures("recorded")
def test_no_part_of_a_chain_can_be_swapped() -> None:
    mine = body_of(chain(tasks.give.s(1), tasks.add.s(), tasks.add.s(5)))
    other = body_of(chain(tasks.give.s(2), tasks.collect.s(), tasks.total.s()))
    envelope.unseal(mine, now=time.time())
    tried = [one for one in swapped(mine, other) if one not in (mine, other)]
    assert len(tried) > 20
    for forged in tried:
        with pytest.raises(BadSignature):
            envelope.unseal(forged, now=time.time())


STEP = '["then","tests.workflows.tasks.nothing","default",{},0.0,false,false]'
SMUGGLED = (
    f"x\n{STEP}\n[[],{{}}]",
    f'"],{{}}]\n{STEP}\n[[],{{}}]\n',
    f"\r\n{STEP}\r\n[[],{{}}]",
    f"\u2028{STEP}\u2028[[],{{}}]",
    f"\x85{STEP}\x85[[],{{}}]",
    f"\ud800\n{STEP}\n[[],{{}}]",
    f"\\n{STEP}\\n[[],{{}}]",
)


WRAPS = (str, lambda text: {text: text}, lambda text: [(text,), {text}])


@pytest.mark.parametrize("value", SMUGGLED, ids=range(len(SMUGGLED)))
@pytest.mark.parametrize(
    "wrap",
    [str, lambda t: {t: t}, lambda t: [(t,), t.encode("utf-8", "surrogatepass")]],
)
def test_a_value_smuggles_no_step_into_a_chain(db: None, value: str, wrap: Any) -> None:
    """The steps of a chain are lines behind the call, and values may have any text."""
    given = wrap(value)
    receipt = chain(tasks.give.s(given), tasks.give.s(), tasks.collect.s()).defer()
    run_queued()
    assert receipt.result() == given
    assert [kind for kind, *_ in tasks.seen] == ["give", "give", "collect"]


def two_groups_that_wait() -> Any:
    """The last member of each has failed, and waits for a retry."""
    tasks.broken.add(3)
    receipts = []
    for first in (1, 10):
        members = group(tasks.fragile.s(n) for n in (first, first + 1, 3))
        receipts.append(members.then(tasks.total.s()).defer())
    run_queued(errors="retry")
    tasks.broken.clear()
    return receipts


def test_a_value_of_another_group_is_refused(db: None) -> None:
    receipts = two_groups_that_wait()
    mine, other = WorkflowGroup.objects.order_by("created_at")
    for member in WorkflowMember.objects.filter(group=mine.id):
        theirs = WorkflowMember.objects.get(group=other.id, place=member.place)
        WorkflowMember.objects.filter(pk=member.pk).update(value=theirs.value)
    retry_failed()
    run_queued()
    with pytest.raises(TaskFailed, match="refused"):
        receipts[0].result()
    assert receipts[1].result() == 100 + 110 + 30


def test_the_rest_of_another_group_is_not_followed(
    db: None, caplog: pytest.LogCaptureFixture
) -> None:
    two_groups_that_wait()
    mine, other = WorkflowGroup.objects.order_by("created_at")
    WorkflowGroup.objects.filter(pk=mine.pk).update(rest=other.rest)
    retry_failed()
    run_queued()
    totals = [one for one in tasks.seen if one[0] == "total"]
    assert totals == [("total", [100, 110, 30])]
    assert f"group / {mine.pk} / rest of 3 members is refused" in caplog.text
