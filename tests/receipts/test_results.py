"""What a receipt tells of its call: the value, the error, or why there is neither."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from django.db import connection, transaction

from cloudtask import (
    Receipt,
    ResultExpired,
    ResultNotKept,
    TaskFailed,
    chain,
    group,
    quotas,
)
from cloudtask.delivering import failed, results
from cloudtask.delivering.results import ResultRefused
from cloudtask.exceptions import BadSignature
from cloudtask.models import TaskResultRow
from cloudtask.testing import Faults, arun_queued, crash_at, eager, run_queued
from tests.durability.database import committing
from tests.receipts import tasks
from tests.support import clock
from tests.testapp.models import Author

DAYS = 86400.0


def defer_chain(value: int) -> Any:
    return chain(tasks.echo.s(value), tasks.echo.s()).defer()


def defer_group(value: int) -> Any:
    members = [tasks.echo.s(value), group(tasks.echo.s(value))]
    return group(members).using(keep_result=60).defer()


@pytest.fixture(autouse=True)
def _mended() -> Iterator[None]:
    tasks.broken.clear()
    yield
    tasks.broken.clear()


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        0,
        "",
        "\u017eluť \U0001f600 \ud800",
        b"\x00\xff",
        [1, (2, {3})],
        {"a": 1, 2: None},
        10**40,
        date(2026, 10, 25),
        datetime(2026, 1, 2, tzinfo=UTC),
        Decimal("2.50"),
        [],
    ],
)
def test_a_value_comes_back_exactly(anywhere: str, value: Any) -> None:
    receipt = tasks.echo.defer(value)
    run_queued()

    result = receipt.result()

    assert result == value
    assert type(result) is type(value)


def test_an_instance_comes_back_as_it_was(anywhere: str) -> None:
    author = Author.objects.create(name="Ada")
    receipt = tasks.echo.defer(author)
    run_queued()
    Author.objects.update(name="other")

    assert receipt.result().name == "Ada"


def test_asynchronous_tasks_have_results(db: None) -> None:
    receipt = tasks.aecho.defer(3)
    run_queued()

    assert receipt.result() + 1 == 4


async def _asynchronous_code_waits() -> int:
    receipt = await tasks.aecho.adefer(3)
    await arun_queued()
    return await receipt.aresult(timeout=5)


def test_asynchronous_code_gets_results(db: None) -> None:
    from asgiref.sync import async_to_sync

    assert async_to_sync(_asynchronous_code_waits)() == 3


def test_defer_many_and_using_have_results(db: None) -> None:
    from cloudtask import call

    many = tasks.echo.defer_many([call(1), call("two")])
    chosen = tasks.forgetful.using(keep_result=60).defer()
    run_queued()

    assert [one.result() for one in many] == [1, "two"]
    assert chosen.result() == 1


def test_an_eager_call_has_its_result_at_once(db: None) -> None:
    with eager():
        receipt = tasks.echo.defer(5)

    assert receipt.result() == 5


def test_the_value_after_retries_is_that_of_the_last_attempt(anywhere: str) -> None:
    receipt = tasks.once_more.defer()
    run_queued()

    assert receipt.result() == 3


def test_a_receipt_is_equal_to_that_of_the_same_call(db: None) -> None:
    receipt = tasks.echo.defer(1)

    assert receipt == Receipt(receipt.id, receipt.name, receipt.queue)
    assert repr(receipt).startswith("Receipt(id=")


# Failures


def test_a_failure_is_raised_with_the_text_of_the_error(anywhere: str) -> None:
    tasks.broken.add("fragile")
    receipt = tasks.fragile.defer("bread")
    run_queued(errors="retry")

    with pytest.raises(TaskFailed, match="failed: ValueError: no bread today"):
        receipt.result()
    with pytest.raises(TaskFailed) as raised:
        receipt.result()
    assert "raise ValueError" in raised.value.traceback


def test_a_retried_failure_becomes_a_success(anywhere: str) -> None:
    tasks.broken.add("fragile")
    receipt = tasks.fragile.defer("bread")
    run_queued(errors="retry")
    tasks.broken.clear()
    failed.retry(receipt.id)
    run_queued()

    assert receipt.result() == "bread"


def test_a_permanent_failure_is_raised(anywhere: str) -> None:
    receipt = tasks.hopeless.defer()
    run_queued(errors="retry")

    with pytest.raises(TaskFailed, match="never"):
        receipt.result()


def test_a_value_that_cannot_travel_fails_the_call_at_once(anywhere: str) -> None:
    tasks.asked[:] = [lambda: 1]
    receipt = tasks.returns_asked.defer()
    report = run_queued(errors="retry")

    assert len(report.attempts) == 1
    with pytest.raises(TaskFailed, match=r"can't be kept: its result\[0\]"):
        receipt.result()


@pytest.mark.parametrize("atomic", [False, True])
def test_a_value_that_is_too_large_is_refused_by_its_size(
    db: None, atomic: bool
) -> None:
    receipt = tasks.huge.using(atomic=atomic).defer(quotas.RESULT)
    run_queued(errors="retry")

    with pytest.raises(TaskFailed, match="1,000,002 bytes, more than the 1,000,000"):
        receipt.result()
    # What an atomic call has written is undone with it.
    assert Author.objects.count() == (0 if atomic else 1)
    tasks.huge.using(atomic=atomic).defer(quotas.RESULT)
    with pytest.raises(ResultRefused):
        run_queued()


def test_the_largest_value_comes_back(anywhere: str) -> None:
    receipt = tasks.huge.defer(quotas.RESULT - 2)
    run_queued()

    assert len(receipt.result()) == quotas.RESULT - 2


# No result


def test_a_task_without_the_option_says_so(db: None) -> None:
    receipt = tasks.forgetful.defer()
    run_queued()

    with pytest.raises(ResultNotKept, match="@task\\(keep_result="):
        receipt.result()


def test_nothing_is_stored_without_the_option(db: None) -> None:
    tasks.forgetful.defer()
    run_queued()

    assert TaskResultRow.objects.count() == 0


def test_a_result_expires(anywhere: str) -> None:
    receipt = tasks.echo.defer(1)
    run_queued()
    with clock.ahead(DAYS + 60), pytest.raises(ResultExpired, match="was removed"):
        receipt.result()


def test_a_test_that_forgot_to_run_the_queue_is_told(db: None) -> None:
    with pytest.raises(RuntimeError, match="run_queued\\(\\) before result"):
        tasks.echo.defer(1).result()


def test_a_task_must_not_wait_for_another_one(db: None) -> None:
    tasks.impatient.defer()

    with pytest.raises(RuntimeError, match="keep that one from running"):
        run_queued()


@pytest.mark.parametrize("make", [tasks.echo.defer, defer_chain, defer_group])
def test_the_transaction_that_must_commit_first_does_not_wait(
    db: None, make: Any
) -> None:
    with transaction.atomic():
        receipt = make(1)
        with pytest.raises(RuntimeError, match="waits for the commit of the trans"):
            receipt.result(timeout=1)


@pytest.mark.django_db(databases="__all__")
def test_another_transaction_may_wait(settings: Any, tmp_path: Path) -> None:
    with committing(tmp_path):
        _in_another_transaction(settings)


def _in_another_transaction(settings: Any) -> None:
    settings.CLOUDTASK = {
        "TRANSPORT": {"BACKEND": "tests.support.recording.RecordingTransport"}
    }
    receipt = tasks.echo.defer(1)
    # SQLite would never show the result to the transaction.
    is_sqlite = connection.vendor == "sqlite"
    error = RuntimeError if is_sqlite else TimeoutError
    with transaction.atomic():
        tasks.echo.defer(2)
        with pytest.raises(error):
            receipt.result(timeout=0.01)


def test_a_result_that_is_there_is_read_in_any_transaction(anywhere: str) -> None:
    receipt = tasks.echo.defer(1)
    run_queued()
    with transaction.atomic():
        tasks.echo.defer(2)
        assert receipt.result() == 1


def test_waiting_ends_with_a_timeout(db: None, settings: Any) -> None:
    settings.CLOUDTASK = {
        "TRANSPORT": {"BACKEND": "tests.support.recording.RecordingTransport"}
    }
    receipt = tasks.echo.defer(1)

    with pytest.raises(TimeoutError, match=receipt.id):
        receipt.result(timeout=0.01)


@pytest.mark.parametrize("option", [0, -1])
def test_a_time_that_is_none_is_refused(option: float) -> None:
    with pytest.raises(ValueError, match="keep_result must be above 0"):
        tasks.echo.using(keep_result=option)


# Atomic calls


def test_an_atomic_result_commits_with_its_effects(anywhere: str) -> None:
    receipt = tasks.write.defer("Ada")
    run_queued()

    assert Author.objects.get(pk=receipt.result()).name == "Ada"


@pytest.mark.django_db(databases="__all__")
def test_an_atomic_result_lies_in_the_database_of_its_effects() -> None:
    receipt = tasks.write_elsewhere.defer("Ada")
    run_queued()

    assert receipt.result() == "Ada"
    assert TaskResultRow.objects.using("other").count() == 1
    assert TaskResultRow.objects.count() == 0


POINTS = [
    "execute.before_call",
    "execute.after_call",
    "execute.before_settle",
    "execute.settled",
]


@pytest.mark.parametrize("point", [*POINTS, "result.before_save", "result.after_save"])
def test_a_crash_of_a_plain_call_leaves_one_result(anywhere: str, point: str) -> None:
    receipt = tasks.huge.defer(3)
    run_queued(faults=crash_at(point))

    assert receipt.result() == "xxx"


@pytest.mark.parametrize("point", [*POINTS, "execute.before_commit"])
def test_a_crash_of_an_atomic_call_leaves_one_result(anywhere: str, point: str) -> None:
    receipt = tasks.write.defer("Ada")
    run_queued(faults=crash_at(point))

    assert Author.objects.get().pk == receipt.result()


@pytest.mark.parametrize("seed", range(5))
def test_results_are_right_whatever_the_service_does(anywhere: str, seed: int) -> None:
    receipts = [tasks.write.defer(f"a{n}", n) for n in range(6)]
    receipts += [tasks.echo.defer(n) for n in range(6)]
    faults = Faults(duplicate=0.5, reorder=0.5, lose_ack=0.3, crash=0.2, seed=seed)
    run_queued(faults=faults, errors="retry")

    assert [one.result() for one in receipts] == [*range(6), *range(6)]


def test_a_late_delivery_does_not_change_the_result(db: None) -> None:
    tasks.asked[:] = [1]
    receipt = tasks.counted.defer()
    run_queued(faults=Faults(duplicate=1.0), errors="retry")

    assert len(tasks.asked) > 2  # the function ran again
    assert receipt.result() == 2


# What rests in the table


def test_a_swapped_value_is_refused(db: None) -> None:
    mine, other = tasks.echo.defer("mine"), tasks.echo.defer("other")
    run_queued()
    row = TaskResultRow.objects.get(pk=other.id)
    TaskResultRow.objects.filter(pk=mine.id).update(value=row.value)

    with pytest.raises(BadSignature, match=mine.id):
        mine.result()


def test_an_altered_value_is_refused(db: None) -> None:
    receipt = tasks.echo.defer("mine")
    run_queued()
    TaskResultRow.objects.update(value=b'"theirs"')

    with pytest.raises(BadSignature):
        receipt.result()


def test_no_log_and_no_repr_has_the_value(
    db: None, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        receipt = tasks.echo.defer("s3cret")
        run_queued()

    assert "s3cret" not in caplog.text
    assert "s3cret" not in repr(receipt)
    assert "s3cret" not in repr(results.find(receipt.id))


def test_results_of_both_kinds_share_a_table_and_are_not_mixed(db: None) -> None:
    from cloudtask.backend.task_results import Results

    receipt = tasks.echo.defer(1)
    run_queued()

    assert Results("default").find(receipt.id) is None


@pytest.mark.django_db(databases="__all__")
def test_prune_removes_expired_results(capsys: pytest.CaptureFixture[str]) -> None:
    from django.core.management import call_command

    receipt = tasks.echo.defer(1)
    run_queued()
    with clock.ahead(2 * DAYS):
        call_command("cloudtask_prune")
        assert "1 results" in capsys.readouterr().out
        with pytest.raises(ResultExpired):
            receipt.result()
