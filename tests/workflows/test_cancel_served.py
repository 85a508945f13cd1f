"""Cancels beside deliveries, with an emulator and gunicorn as real processes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from django.db import connection, connections

from cloudtask import Cancellation, cancel, chain, group, inspect
from cloudtask.inspect.cancelling import NotCancellable
from tests.iteration.workers import Server, served
from tests.support.waiting import wait_until
from tests.testapp.models import Author
from tests.workflows import tasks

pytestmark = [
    pytest.mark.acceptance,
    pytest.mark.django_db(databases=["default", "other"]),
]

PREVENTED, TOO_LATE, REQUESTED = Cancellation
CALLS = 120
STEPS = 6


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    if connection.vendor == "sqlite":
        pytest.skip("SQLite has one writer at a time")
    options = ("--workers=2", "--threads=4")
    trusted = ["tests.workflows", "tests.testapp"]
    with served(tmp_path, monkeypatch, *options, TRUSTED_MODULES=trusted) as running:
        yield running


def beside(number: int, work: Callable[[int], Any]) -> list[Any]:
    """The results of `work`, done by four threads beside the server."""

    def done(index: int) -> Any:
        try:
            return work(index)
        finally:
            connections["default"].close()

    with ThreadPoolExecutor(4) as pool:
        return [*pool.map(done, range(number))]


def wait_for_the_queue(server: Server) -> None:
    wait_until(
        lambda: not [*inspect.tasks("default", limit=1)],
        "the queue is empty",
        lambda: server.log.read_text()[-2000:],
    )


def names() -> Counter[str]:
    return Counter(Author.objects.values_list("name", flat=True))


@pytest.mark.parametrize("kind", ["mark", "mark_atomically"])
def test_the_answer_holds_for_calls_that_are_being_delivered(
    server: Server, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    task = getattr(tasks, kind)

    def deferred_and_cancelled(number: int) -> Cancellation:
        receipt = task.defer(str(number))
        wait_until(lambda: number % 3 or Author.objects.filter(name=number), "it ran")
        return receipt.cancel() if number % 2 else _by_id(receipt.id)

    answers = beside(CALLS, deferred_and_cancelled)
    wait_for_the_queue(server)

    ran = names()
    assert set(ran.values()) == {1}
    for number, answer in enumerate(answers):
        if answer is PREVENTED:
            assert not ran[str(number)]
        if answer is TOO_LATE or (kind == "mark_atomically" and answer is REQUESTED):
            assert ran[str(number)]
    with capsys.disabled():
        told = ", ".join(f"{n} {one.name}" for one, n in Counter(answers).items())
        print(f"\n{kind}: {told}; {len(ran)} of {CALLS} calls ran")


def _by_id(call_id: str) -> Cancellation:
    """Cancel without the receipt; a call of which nothing is left has run."""
    try:
        return cancel(call_id)
    except NotCancellable:
        return REQUESTED


def test_no_step_begins_after_the_cancel_of_its_chain(server: Server) -> None:
    def deferred_and_cancelled(number: int) -> tuple[int, Cancellation]:
        steps = [tasks.mark_step.si(f"{number}:{place}") for place in range(STEPS)]
        receipt = chain(*steps).using(cancellable=True).defer()
        mine = Author.objects.filter(name__startswith=f"{number}:")
        wait_until(lambda: mine.count() >= number % 4, "some steps")
        answer = receipt.cancel()
        return mine.count(), answer

    found = beside(24, deferred_and_cancelled)
    wait_for_the_queue(server)

    ran = Counter(name.partition(":")[0] for name in names().elements())
    for number, (before, answer) in enumerate(found):
        # One step may be between its look and its row.
        assert ran[str(number)] <= before + 1, (number, answer)
        if answer is PREVENTED:
            assert ran[str(number)] == 0


def test_then_never_runs_after_the_cancel_of_its_group(server: Server) -> None:
    def deferred_and_cancelled(number: int) -> bool:
        members = (tasks.mark_step.si(f"{number}:{one}") for one in range(8))
        receipt = group(members).then(tasks.mark_step.si(f"{number}:then")).defer()
        mine = Author.objects.filter(name__startswith=f"{number}:")
        wait_until(lambda: mine.count() >= number % 5, "some members")
        receipt.cancel()
        return mine.count() < 8  # before the last member has ended, `then` can't begin

    is_early = beside(24, deferred_and_cancelled)
    wait_for_the_queue(server)

    ran = names()
    assert any(is_early)
    for number, was_early in enumerate(is_early):
        members = sum(ran[f"{number}:{one}"] for one in range(8))
        assert members <= 8
        if was_early:
            assert not ran[f"{number}:then"]
