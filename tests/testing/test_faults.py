"""Runs that deliver as badly as Cloud Tasks is allowed to."""

from __future__ import annotations

import pytest
from django.db import transaction

from cloudtask import failpoints
from cloudtask.delivering.settling import Outcome
from cloudtask.exceptions import SingularTaskFailure
from cloudtask.failpoints import Crashed
from cloudtask.sending import on_commit, table
from cloudtask.testing import Faults, NotIdempotent, crash_at, queued, run_queued
from tests.testapp.models import Author
from tests.testing import tasks
from tests.testing.conftest import balance
from tests.testing.tasks import seen


def test_a_duplicate_that_changes_the_database_is_caught(account):
    tasks.pay.defer(account.pk, 10)
    with pytest.raises(NotIdempotent) as caught:
        run_queued(faults=Faults(duplicate=True, seed=3))
    text = str(caught.value)
    assert tasks.pay.path in text
    assert "Faults(duplicate=True, seed=3)" in text
    assert f"testapp.Book pk={account.pk}: pages 10 -> 20" in text


def test_a_lost_acknowledgement_is_caught_likewise(account):
    tasks.pay.defer(account.pk, 10)
    with pytest.raises(NotIdempotent, match="lose_ack"):
        run_queued(faults=Faults(lose_ack=True))


def test_collecting_notes_what_was_caught(account):
    tasks.pay.defer(account.pk, 10)
    report = run_queued(errors="collect", faults=Faults(duplicate=True))
    assert balance(account) == 20
    assert any("is not idempotent" in line for line in report.struck)


@pytest.mark.parametrize("fault", ["duplicate", "lose_ack", "concurrent", "crash"])
@pytest.mark.parametrize("task", [tasks.pay_once, tasks.set_balance])
def test_an_idempotent_task_gets_through(account, task, fault):
    for seed in range(5):
        tasks.set_balance(account.pk, 0)
        task.defer(account.pk, 10)
        run_queued(faults=Faults(**{fault: True}, seed=seed))
        assert balance(account) == 10
        assert queued() == []


def test_a_duplicate_has_the_same_count_of_retries_a_lost_answer_one_more():
    tasks.tick.defer()
    run_queued(faults=Faults(duplicate=True))
    assert [attempt for _, attempt, _ in seen] == [1, 1]
    seen.clear()
    tasks.tick.defer()
    run_queued(faults=Faults(lose_ack=True))
    assert [attempt for _, attempt, _ in seen] == [1, 2]


def test_a_second_delivery_between_two_statements_is_found(account):
    balances = set()
    for seed in range(20):
        tasks.set_balance(account.pk, 0)
        type(account).objects.update(data={})
        tasks.pay_slowly.defer(account.pk, 10)
        run_queued(faults=Faults(concurrent=True, seed=seed))
        balances.add(balance(account))
    # Delivered one after the other it pays once; in the middle of itself, twice.
    assert balances == {10, 20}


def test_a_second_delivery_stays_out_of_transactions(account):
    tasks.pay_once.defer(account.pk, 10)
    report = run_queued(faults=Faults(concurrent=True))
    assert [one.fault for one in report.attempts] == ["concurrent", None]
    assert {one.outcome for one in report.attempts} == {
        Outcome.SUCCEEDED,
        Outcome.DUPLICATE,
    }


def test_a_crash_is_followed_by_another_delivery():
    tasks.tick.defer()
    report = run_queued(faults=crash_at("execute.after_call"))
    assert [attempt for _, attempt, _ in seen] == [1, 2]
    first, second = report.attempts
    assert isinstance(first.error, Crashed)
    assert (first.is_retried, first.fault) == (True, "crashed at execute.after_call")
    assert second.outcome is Outcome.SUCCEEDED
    assert report.failed == []


def test_a_crash_as_often_as_it_is_told():
    tasks.tick.defer()
    report = run_queued(faults=Faults(crash=crash_at("execute.received", times=3)))
    assert (len(report.retried), len(seen)) == (3, 1)


def test_a_crash_that_never_ends_ends():
    tasks.tick.using(max_attempts=3).defer()
    with failpoints.at("execute.received", failpoints.crash):
        assert 3 < len(run_queued(errors="retry")) < 10


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(
    "point", ["outbox.committed", "outbox.sent", "enqueue.after_send"]
)
def test_a_process_that_dies_after_its_commit_loses_nothing(point):
    transactional = point.startswith("outbox")
    with crash_at(point):
        with transaction.atomic():
            Author.objects.create(name="committed")
            if transactional:
                tasks.see.defer(1)
        tasks.see.defer(1)
    report = run_queued()
    assert report.calls[tasks.see] == 1


@pytest.mark.django_db
def test_a_process_that_dies_before_its_commit_enqueues_nothing():
    with crash_at("outbox.added"), transaction.atomic():
        Author.objects.create(name="never")
        tasks.see.defer(1)
    assert len(run_queued()) == 0
    assert not Author.objects.exists()


@pytest.mark.django_db
def test_in_a_plain_test_case_the_relay_sends_what_a_crash_left():
    tasks.see.defer(1)
    tasks.see.defer(2)
    report = run_queued(faults=crash_at("outbox.committed"))
    assert report.calls[tasks.see] == 2
    assert report.struck == ["crashed at outbox.committed in a commit"]
    assert "struck: crashed at outbox.committed" in repr(report)


@pytest.mark.django_db
@pytest.mark.parametrize("point", ["outbox.committed", "outbox.sent"])
def test_in_a_plain_test_case_a_block_commits_at_its_end(point):
    tasks.see.defer("before")
    with crash_at(point):
        with transaction.atomic():
            tasks.see.defer("in a transaction")
        tasks.see.defer("after it")
    assert [call.args for call in queued() if call.awaits_commit] == [("before",)]
    report = run_queued()
    assert report.calls[tasks.see] == 3
    assert table.rows_of("default").count() == 0


@pytest.mark.django_db
def test_a_small_call_is_lost_with_the_process_that_was_to_send_it():
    with crash_at("enqueue.before_send"):
        tasks.tick.defer()
    assert len(run_queued()) == 0


@pytest.mark.django_db
def test_a_block_inside_of_a_transaction_does_not_commit():
    with (
        transaction.atomic(),
        pytest.raises(AssertionError, match=r"an atomic\(\) block that is open"),
        crash_at("outbox.committed"),
    ):
        tasks.see.defer(1)
    assert run_queued().calls[tasks.see] == 1


@pytest.mark.django_db(transaction=True)
def test_with_real_transactions_a_block_inside_of_one_does_not_commit():
    with transaction.atomic():
        with (
            pytest.raises(AssertionError, match="is open"),
            crash_at("outbox.committed"),
        ):
            tasks.see.defer(1)
        assert queued()[0].awaits_commit
    assert run_queued().calls[tasks.see] == 1


@pytest.mark.django_db
def test_a_block_for_another_point_commits_nothing():
    with pytest.raises(AssertionError), crash_at("execute.received"):
        tasks.see.defer(1)
    assert queued()[0].awaits_commit


def test_a_block_that_survives_its_crash_point_fails():
    with (
        pytest.raises(AssertionError, match=r"Nothing reached .* wait for a commit"),
        crash_at("outbox.committed"),
    ):
        tasks.see.defer(1)


def test_a_run_that_survives_its_crash_point_fails():
    tasks.see.defer(1)
    with pytest.raises(AssertionError, match=r"Nothing reached .* wait for a commit"):
        run_queued(faults=crash_at("outbox.committed"))
    assert len(seen) == 1


@pytest.mark.parametrize("errors", ["retry", "collect"])
def test_other_runs_only_report_what_struck(errors):
    tasks.see.defer(1)
    report = run_queued(errors=errors, faults=crash_at("outbox.committed"))
    assert (report.struck, len(report.ran)) == ([], 1)


def test_a_crash_point_must_exist():
    with pytest.raises(ValueError, match=r"execute\.after_call"):
        crash_at("execute.sometime")


@pytest.mark.django_db
@pytest.mark.parametrize("seed", range(6))
def test_a_failing_queue_delays_and_loses_nothing(account, seed):
    tasks.pass_on_once.defer(account.pk, 10)
    tasks.tell.defer("x")
    run_queued(faults=Faults(enqueue_errors=0.7, seed=seed))
    assert balance(account) == 10
    assert (("x",), {}) in seen
    assert queued() == []


@pytest.mark.django_db
def test_after_a_failing_queue_commits_send_at_once():
    tasks.see.defer(1)
    run_queued(faults=Faults(enqueue_errors=True))
    assert not on_commit.outage.lasts()


def test_reordered_calls_all_run():
    for number in range(30):
        tasks.see.defer(number)
    report = run_queued(faults=Faults(reorder=0.5, seed=1))
    order = [args[0] for args, _ in seen]
    assert order != sorted(order)
    assert sorted(order) == list(range(30))
    assert any(line.startswith("reorder of") for line in report.struck)


def test_calls_are_not_reordered_before_their_time():
    tasks.tick.using(countdown=3600).defer("late")
    for _ in range(5):
        tasks.tick.defer("now")
    run_queued(faults=Faults(reorder=True))
    assert seen[-1][0] == "late"


ALL = {
    "duplicate": 0.3,
    "concurrent": 0.3,
    "crash": 0.3,
    "reorder": 0.3,
    "lose_ack": 0.3,
    "enqueue_errors": 0.3,
}


def deliveries(seed):
    seen.clear()
    for number in range(20):
        tasks.see.defer(number)
        tasks.tell.defer(f"{number}")
    run_queued(faults=Faults(**ALL, seed=seed))
    return list(seen)


def test_a_seed_makes_the_same_choices_again():
    assert deliveries(1) == deliveries(1)
    assert deliveries(1) != deliveries(2)


@pytest.mark.django_db
def test_everything_at_once_does_each_call_in_the_end(account):
    for seed in range(5):
        tasks.set_balance(account.pk, 0)
        for _ in range(10):
            tasks.pay_once.defer(account.pk, 1)
        run_queued(faults=Faults(**ALL, seed=seed))
        assert balance(account) == 10


def test_a_failure_tells_the_faults_and_the_seed():
    tasks.fail.defer()
    with pytest.raises(tasks.Trouble) as caught:
        run_queued(faults=Faults(reorder=0.1, seed=77))
    assert "Faults(reorder=0.1, seed=77)" in caught.value.__notes__[0]


@pytest.mark.parametrize("wrong", [-0.1, 1.5, "often"])
def test_a_chance_is_from_0_to_1(wrong):
    with pytest.raises(ValueError, match="chance from 0 to 1"):
        Faults(duplicate=wrong)


def test_the_report_tells_what_struck():
    tasks.tick.defer()
    report = run_queued(faults=Faults(duplicate=True))
    assert "Faults(duplicate=True, seed=0)" in repr(report)
    assert f"struck: duplicate of {tasks.tick.path}" in repr(report)


def test_a_singular_failure_is_retried_under_faults_only():
    tasks.wait_for_the_other.defer()
    report = run_queued(faults=Faults(duplicate=True))
    assert (len(report.retried), len(report.ran)) == (1, 2)
    tasks.wait_for_the_other.defer()
    with pytest.raises(SingularTaskFailure):
        run_queued()
