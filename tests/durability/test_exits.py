"""A task that exits, is cancelled or hangs has failed; what it changed is put back."""

from __future__ import annotations

import asyncio
import contextvars
import logging
import sys
from typing import Any

import pytest
from django.db import connection, transaction
from django.utils import timezone, translation
from django.views.debug import ExceptionReporter

from cloudtask import current, task
from cloudtask.exceptions import WorkerAborted
from cloudtask.models import FailedTask
from cloudtask.runs import RunState
from cloudtask.testing import run_queued
from tests.support import clock
from tests.testapp.models import Author

tenant: contextvars.ContextVar[str | None] = contextvars.ContextVar("tenant")
tenant.set(None)
seen: list[object] = []


@task(max_attempts=2)
def leave() -> None:
    sys.exit("no more paper")


@task(max_attempts=2)
async def leave_asynchronously() -> None:
    sys.exit("no more paper")


@task(max_attempts=2)
def cancel() -> None:
    raise asyncio.CancelledError("no more paper")


@task(max_attempts=2)
async def cancel_asynchronously() -> None:
    raise asyncio.CancelledError("no more paper")


@task(max_attempts=2)
def end_a_generator() -> None:
    raise GeneratorExit("no more paper")


LEAVING = [
    leave,
    leave_asynchronously,
    cancel,
    cancel_asynchronously,
    end_a_generator,
]


def records(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    """What deliveries have logged."""
    return [r for r in caplog.records if r.module in ("calls", "settling")]


def failures(caplog: pytest.LogCaptureFixture) -> list[tuple[str, bool]]:
    """The level of each record, and whether it has a traceback."""
    return [(one.levelname, bool(one.exc_info)) for one in records(caplog)]


@pytest.mark.parametrize("via", ["direct", "http"])
@pytest.mark.parametrize("leaving", LEAVING, ids=lambda one: one.path.split(".")[-1])
@pytest.mark.django_db
def test_leaving_is_a_failed_attempt(leaving, via, caplog):
    leaving.defer()
    report = run_queued(errors="retry", via=via)

    assert len(report.attempts) == 2
    failed = FailedTask.objects.get()
    assert failed.attempts == 2
    assert "no more paper" in failed.error
    assert leaving.path.split(".")[-1] in failed.traceback
    assert failures(caplog) == [("WARNING", True), ("ERROR", True)]


@pytest.mark.django_db
def test_a_keyboard_interrupt_passes(monkeypatch):
    def interrupt() -> None:
        raise KeyboardInterrupt

    interrupting.defer()
    monkeypatch.setattr(sys.modules[__name__], "interrupt", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run_queued(errors="retry")


def interrupt() -> None: ...


@task
def interrupting() -> None:
    interrupt()


@task(atomic=True, max_attempts=1)
def write_and_leave(name: str) -> None:
    Author.objects.create(name=name)
    sys.exit(1)


@pytest.mark.django_db
def test_an_atomic_task_that_exits_is_rolled_back():
    write_and_leave.defer("a")
    run_queued(errors="retry")

    assert not Author.objects.exists()
    assert FailedTask.objects.get().error == "SystemExit: 1"


class Odd(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


class Unshown(Odd):
    __repr__ = Odd.__str__


class Leaving(Exception):
    def __str__(self) -> str:
        raise SystemExit(1)


def noted() -> Exception:
    error = Exception("a note follows")
    vars(error)["__notes__"] = [Odd()]  # as a wrong library may leave it
    return error


ODD = {
    "Odd": Odd,
    "Unshown": Unshown,
    "Leaving": Leaving,
    "Exception": noted,
    "ExceptionGroup": lambda: ExceptionGroup("of odd ones", [Unshown()]),
}


@task(max_attempts=1)
def be_odd(which: str) -> None:
    raise ODD[which]()


@task
def be_odd_for(author: Author, which: str) -> None:
    raise ODD[which]()


@task(max_attempts=2)
def end_oddly(which: str) -> None:
    raise ODD[which]()


@task
def look_at(author: Author, which: str) -> None:
    pass


@pytest.mark.django_db
@pytest.mark.parametrize("which", ODD)
def test_an_error_without_words_is_reported(which):
    be_odd.defer(which)
    report = run_queued(errors="retry")

    assert len(report.failed) == 1
    assert which in FailedTask.objects.get().error
    assert str(report)


@pytest.mark.django_db
@pytest.mark.parametrize("which", ODD)
def test_an_error_without_words_ends_no_iteration(which):
    Author.objects.create(name="a")
    run = be_odd_for.iterate(Author.objects.all(), args=(which,), on_error="skip")
    report = run_queued(errors="retry")

    assert run.state is RunState.FINISHED
    assert [which in one.error for one in run.failures()] == [True]
    assert str(report)


@pytest.mark.django_db
@pytest.mark.parametrize("which", ODD)
def test_a_finalize_without_words_is_called_as_often_as_it_may_be(which):
    Author.objects.create(name="a")
    run = look_at.iterate(Author.objects.all(), args=(which,), finalize=end_oddly)
    run_queued(errors="retry")

    assert run.state is RunState.FAILED
    assert which in run.error


# What it changed is put back


@task
def change_all() -> None:
    translation.activate("de")
    timezone.activate("Asia/Tokyo")
    tenant.set("acme")


@task
async def change_all_asynchronously() -> None:
    translation.activate("de")
    timezone.activate("Asia/Tokyo")
    tenant.set("acme")


def state() -> list[object]:
    zone = str(timezone.get_current_timezone())
    return [translation.get_language(), zone, tenant.get(None), current()]


@pytest.mark.parametrize("via", ["direct", "http"])
@pytest.mark.parametrize("changing", [change_all, change_all_asynchronously])
@pytest.mark.django_db
def test_language_zone_and_variables_are_what_they_were(changing, via):
    before = state()
    changing.defer()
    run_queued(via=via)

    assert state() == before


@task(max_attempts=1)
def leave_a_block_open() -> None:
    transaction.atomic().__enter__()
    Author.objects.create(name="lost")


@task(max_attempts=1)
def leave_autocommit_off() -> None:
    transaction.set_autocommit(False)
    Author.objects.create(name="lost")


@pytest.mark.django_db
def test_a_block_that_was_left_open_is_rolled_back_and_said():
    blocks = len(connection.atomic_blocks)
    leave_a_block_open.defer()
    run_queued(errors="retry")

    assert len(connection.atomic_blocks) == blocks
    assert not Author.objects.exists()
    assert "transaction open on 'default'" in FailedTask.objects.get().error


@pytest.mark.parametrize("left", [leave_a_block_open, leave_autocommit_off])
@pytest.mark.django_db(databases="__all__")
def test_in_production_the_connection_commits_again(world, left):
    left.defer()
    assert world.deliver_all() == [200]

    assert connection.get_autocommit()
    assert not connection.in_atomic_block
    assert not Author.objects.exists()
    assert "transaction open on 'default'" in FailedTask.objects.get().error


# Deadlines and workers


@task(max_attempts=1)
def outlive(seconds: float, text: str = "") -> None:
    clock.move(seconds)
    if text:
        raise ValueError(text)


@task(max_attempts=1)
async def outlive_asynchronously(seconds: float, text: str = "") -> None:
    clock.move(seconds)
    if text:
        raise ValueError(text)


@pytest.fixture
def clock_put_back():
    with clock.put_back():
        yield


OUTLIVING = pytest.mark.parametrize("late", [outlive, outlive_asynchronously])


@OUTLIVING
@pytest.mark.django_db(databases="__all__")
def test_a_failure_beyond_the_deadline_says_so(world, late, clock_put_back):
    late.using(timeout=20).defer(30.0, "too slow")
    assert world.deliver_all() == [200]

    failed = FailedTask.objects.get()
    assert failed.error.startswith("ValueError: too slow\n")
    assert "Cloud Tasks hung up after 20 s" in failed.error


@OUTLIVING
@pytest.mark.django_db(databases="__all__")
def test_a_success_beyond_the_deadline_is_logged(world, late, caplog, clock_put_back):
    late.defer(700.0)
    assert world.deliver_all() == [200]

    assert "Cloud Tasks hung up after 600 s" in caplog.text
    assert failures(caplog) == [("WARNING", False)]


@task
async def outlast(began: asyncio.Event, may_end: asyncio.Event) -> None:
    seen.append("began")
    began.set()
    await may_end.wait()
    seen.append("ended")


def test_an_asynchronous_task_goes_on_when_its_request_is_cancelled():
    from cloudtask.delivering.calls import _to_the_end

    async def cancelled() -> None:
        seen.clear()
        began, may_end = asyncio.Event(), asyncio.Event()
        running = asyncio.ensure_future(_to_the_end(outlast(began, may_end)))
        await began.wait()
        running.cancel()
        await asyncio.sleep(0)  # so that it notices
        may_end.set()
        assert await running == (None, None)

    asyncio.run(cancelled())
    assert seen == ["began", "ended"]


# Logs and reporters


@task(max_attempts=2)
def charge(user: str, password: str) -> None:
    raise ValueError("declined")


@pytest.mark.django_db
def test_arguments_are_in_no_record_and_in_no_frame_of_ours(caplog):
    charge.defer("ada", password="hunter2")
    run_queued(errors="retry")

    assert [r for r in caplog.records if "hunter2" in repr(r.args)] == []
    for record in [r for r in caplog.records if r.exc_info]:
        reporter = ExceptionReporter(None, *record.exc_info)
        frames = reporter.get_traceback_frames()
        shown = [f["function"] for f in frames if "hunter2" in repr(f["vars"])]
        assert shown == ["charge"]


@pytest.mark.parametrize(
    ("reports", "levels"),
    [(False, ["WARNING", "ERROR"]), (True, ["ERROR", "ERROR"])],
)
@pytest.mark.django_db
def test_one_error_is_logged_for_a_call_that_fails_for_good(
    configure, settings, caplog, reports, levels
):
    settings.CLOUDTASK = {"REPORT_RETRIES": reports}
    charge.defer("ada", password="x")
    run_queued(errors="retry")

    found: list[Any] = records(caplog)
    assert [record.levelname for record in found] == levels
    assert [record.attempt for record in found] == [1, 2]
    assert {record.task for record in found} == {charge.path}


@task(max_attempts=1)
def hang() -> None:
    handler: dict[str, object] = {"__name__": "gunicorn.workers.base"}
    exec("import sys\ndef handle_abort(): sys.exit(1)", handler)
    handler["handle_abort"]()


@pytest.mark.django_db
def test_the_abort_of_a_worker_is_recorded_as_what_it_is():
    hang.defer()
    report = run_queued(errors="retry")

    assert isinstance(report.failed[0].error, WorkerAborted)
    failed = FailedTask.objects.get()
    assert "gunicorn ended this worker" in failed.error
    assert "in hang" in failed.traceback
