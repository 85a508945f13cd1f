"""The calls that run_queued runs, their order, and its reaction to failures."""

from __future__ import annotations

import threading
import traceback

import pytest

from cloudtask import Retry, registry
from cloudtask.delivering.settling import Outcome
from cloudtask.exceptions import TaskNotFound, UnsupportedValue
from cloudtask.models import FailedTask
from cloudtask.testing import EndlessTasks, queued, run_queued
from tests.testapp.models import Magazine
from tests.testing import tasks
from tests.testing.tasks import Trouble, seen


def test_calls_run_in_the_order_of_their_eta():
    tasks.see.using(countdown=60).defer("third")
    tasks.see.defer("first")
    tasks.see.using(countdown=30).defer("second")
    run_queued()
    assert [args[0] for args, _ in seen] == ["first", "second", "third"]


def test_only_the_given_tasks_run():
    tasks.see.defer(1)
    tasks.tick.defer()
    report = run_queued(tasks.tick)
    assert report.calls[tasks.tick] == 1
    assert [call.task for call in queued()] == [tasks.see.path]


def test_only_the_given_queue_runs():
    tasks.mail.defer(7)
    tasks.see.defer()
    run_queued(queue="mail")
    assert seen == [("mail", 7, "plain", 1)]
    assert len(queued(queue="default")) == 1


def test_what_tasks_enqueue_runs_too():
    tasks.fan_out.defer(3)
    assert run_queued().calls == {tasks.fan_out.path: 1, tasks.see.path: 3}


def test_without_recursive_what_tasks_enqueue_stays():
    tasks.fan_out.defer(3)
    report = run_queued(recursive=False)
    assert report.calls == {tasks.fan_out.path: 1}
    assert len(report.remaining) == len(queued()) == 3


def test_a_failing_task_fails_the_test_with_its_own_traceback():
    tasks.fail.defer("here")
    with pytest.raises(Trouble, match="here") as caught:
        run_queued()
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None
    last = traceback.extract_tb(caught.value.__traceback__)[-1]
    assert (last.name, last.line) == ("fail", "raise Trouble(text)")


def test_a_task_that_failed_stays_queued_as_production_would_try_it_again():
    tasks.fail.defer()
    with pytest.raises(Trouble):
        run_queued()
    assert [call.task for call in queued()] == [tasks.fail.path]


def test_a_task_that_failed_for_the_last_time_is_gone():
    tasks.fail.using(max_attempts=1).defer()
    with pytest.raises(Trouble):
        run_queued()
    assert queued() == []


@pytest.mark.parametrize("via", ["direct", "http"])
def test_asking_again_too_often_fails_the_test(db, via):
    tasks.ask_again.using(max_attempts=2).defer(5)
    with pytest.raises(Retry):
        run_queued(via=via)
    assert not queued()


@pytest.mark.parametrize("errors", ["retry", "collect"])
def test_asking_again_too_often_is_noted(db, errors):
    tasks.ask_again.using(max_attempts=2).defer(5)
    report = run_queued(errors=errors)
    assert [ran.attempt for ran in report.failed] == [2]
    assert [ran.attempt for ran in report.retried] == [1]


def test_asking_again_after_no_duration_fails_the_test():
    tasks.ask_again.defer(5, delay="soon")
    with pytest.raises(TypeError, match="delay of Retry"):
        run_queued()
    assert len(queued()) == 1


def test_collected_failures_let_the_others_run():
    tasks.fail.defer("one")
    tasks.see.defer()
    tasks.fail.defer("two")
    report = run_queued(errors="collect")
    assert [str(one.error) for one in report.failed] == ["one", "two"]
    assert (len(report.ran), report.retried, report.remaining) == (1, [], [])


@pytest.mark.django_db
def test_retries_end_with_the_last_attempt():
    tasks.stumble.defer(99)
    report = run_queued(errors="retry")
    assert report.calls[tasks.stumble] == 5
    assert [one.outcome for one in report.failed] == [Outcome.EXHAUSTED]
    assert len(report.retried) == 4


@pytest.mark.django_db
def test_a_task_without_a_limit_ends_too():
    tasks.fail.defer()
    assert run_queued(errors="retry").calls[tasks.fail] == 100


@pytest.mark.parametrize("via", ["direct", "http"])
@pytest.mark.django_db
def test_a_call_whose_task_no_version_knows_is_kept_as_failed(via, monkeypatch):
    tasks.see.defer(1)
    known = {k: v for k, v in registry.tasks().items() if k != tasks.see.path}
    monkeypatch.setattr(registry, "_known", known)
    report = run_queued(errors="retry", via=via)
    assert [type(one.error) for one in report.failed] == [TaskNotFound]
    assert FailedTask.objects.get().task == tasks.see.path


def test_a_lock_in_the_arguments_is_refused():
    with pytest.raises(UnsupportedValue, match=r"args\[0\]"):
        tasks.see.defer(threading.Lock())
    assert queued() == []


def test_an_int_key_arrives_as_an_int():
    tasks.see.defer({1: 2})
    run_queued()
    assert seen == [(({1: 2},), {})]


def test_mutating_an_argument_after_defer_changes_nothing():
    names = ["a"]
    tasks.see.defer(names)
    names.append("b")
    run_queued()
    assert seen == [((["a"],), {})]


def test_the_task_gets_a_copy_of_its_own():
    names = ["a"]
    tasks.see.defer(names)
    run_queued()
    assert seen[0][0][0] is not names


def test_tasks_that_enqueue_one_another_for_ever_are_named():
    tasks.ping.defer()
    with pytest.raises(EndlessTasks) as caught:
        run_queued(limit=50)
    ping, pong = tasks.ping.path, tasks.pong.path
    assert f"{pong} -> {ping} -> {pong} -> ..." in str(caught.value)


def test_many_tasks_are_no_endless_ones():
    for number in range(30):
        tasks.see.defer(number)
    assert len(run_queued(limit=10)) == 30


def test_a_fan_out_beyond_the_limit_is_refused_and_a_higher_limit_helps():
    tasks.fan_out.defer(30)
    with pytest.raises(EndlessTasks, match=r"fan_out -> .*see"):
        run_queued(limit=10)
    assert run_queued(limit=100).calls[tasks.see] == 20


def test_a_run_inside_a_task_leaves_the_outer_one_whole():
    tasks.see.defer("outer")
    tasks.nest.defer()
    tasks.see.defer("inner")
    tasks.see.using(countdown=1).defer("last")
    report = run_queued()
    assert [args[0] for args, _ in seen] == ["outer", "inner", "last"]
    assert report.calls == {tasks.see.path: 2, tasks.nest.path: 1}


def test_a_class_method_gets_its_class():
    Magazine.count.defer(3)
    (call,) = queued(Magazine.count)
    assert (call.subject, call.args) == (Magazine, (3,))
    assert run_queued().ran[0].value == 3


def test_the_report_reads_well():
    tasks.fail.defer("text")
    tasks.see.defer(1)
    tasks.see.using(countdown=3600).defer(2)
    report = run_queued(errors="collect", until=60)
    text = repr(report)
    assert text.startswith("<Report: 1 ran, 1 failed, 0 retried, 1 remaining\n")
    assert "Trouble('text')" in text
    assert "remaining: tests.testing.tasks.see(2) on 'default', eta " in text


@pytest.mark.parametrize("wrong", [{"errors": "ignore"}, {"via": "carrier pigeon"}])
def test_an_unknown_choice_is_refused(wrong):
    with pytest.raises(ValueError, match=r"must be '(raise|direct)' or"):
        run_queued(**wrong)
