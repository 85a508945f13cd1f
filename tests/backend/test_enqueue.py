"""Enqueueing through `django.tasks`, and what the worker then calls."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta

import pytest
from asgiref.sync import async_to_sync
from django.db import transaction
from django.utils import timezone

from cloudtask.backend import CloudTask, CloudTasksBackend
from cloudtask.backend.library import (
    InvalidTask,
    TaskResultStatus,
    task,
    task_backends,
)
from cloudtask.exceptions import EnqueueError
from cloudtask.testing import queued, run_queued
from tests.backend import tasks, thirdparty
from tests.testapp.tasks import calls


def test_the_function_runs_with_the_arguments_it_was_enqueued_with():
    tasks.note.enqueue(1, "two", three=[3])
    run_queued()
    assert calls == [((1, "two"), {"three": [3]})]


def test_the_message_carries_the_import_path_of_the_function():
    tasks.note.enqueue()
    assert [call.task for call in queued()] == ["tests.backend.tasks.note"]


def test_the_result_is_ready_and_has_the_arguments():
    result = tasks.add.enqueue(1, b=2)
    assert result.status == TaskResultStatus.READY
    assert (result.args, result.kwargs) == ([1], {"b": 2})
    assert result.task == tasks.add
    assert result.backend == "default"
    assert result.enqueued_at is not None
    assert (result.attempts, result.errors) == (0, [])


def test_an_id_is_text_of_64_characters_at_most():
    result = tasks.note.enqueue()
    assert isinstance(result.id, str)
    assert 0 < len(result.id) <= 64


def test_two_calls_have_two_ids():
    assert tasks.note.enqueue().id != tasks.note.enqueue().id


def test_aenqueue_enqueues():
    result = async_to_sync(tasks.note.aenqueue)(5)
    assert [call.id for call in queued()] == [result.id]


def test_an_async_task_runs():
    tasks.anote.enqueue(5)
    run_queued()
    assert calls == [("async", 5)]


def test_a_task_in_a_transaction_that_fails_is_not_enqueued(db):
    with transaction.atomic():
        tasks.note.enqueue()
        transaction.set_rollback(True)
    assert queued() == []


def test_call_runs_now():
    assert tasks.add.call(1, 2) == 3


class TestRunAfter:
    def test_it_is_the_moment_from_which_the_task_may_run(self):
        moment = timezone.now() + timedelta(hours=1)
        tasks.note.using(run_after=moment).enqueue()
        assert abs(queued()[0].eta - moment) < timedelta(milliseconds=1)

    def test_a_past_moment_means_now(self):
        tasks.note.using(run_after=datetime(2020, 1, 1, tzinfo=UTC)).enqueue()
        assert queued()[0].eta is None

    def test_the_worker_sees_the_moment_in_its_task(self):
        moment = timezone.now() + timedelta(hours=1)
        tasks.see.using(run_after=moment).enqueue(1)
        run_queued()
        assert calls[0][1].task.run_after == moment

    def test_more_than_thirty_days_ahead_are_refused(self):
        moment = timezone.now() + timedelta(days=31)
        with pytest.raises(EnqueueError, match="30"):
            tasks.note.using(run_after=moment).enqueue()

    def test_a_naive_moment_is_refused(self):
        with pytest.raises(InvalidTask, match="aware"):
            tasks.note.using(run_after=datetime(2030, 1, 1))

    def test_a_naive_moment_is_of_the_time_zone_where_use_tz_is_off(self, settings):
        settings.USE_TZ = False
        moment = timezone.make_naive(datetime.now(UTC) + timedelta(hours=1))
        tasks.note.using(run_after=moment).enqueue()
        assert abs(queued()[0].eta - timezone.make_aware(moment)) < timedelta(seconds=1)


class TestContext:
    def test_a_task_that_takes_its_context_gets_it_first(self):
        result = tasks.see.enqueue("value")
        run_queued()
        attempt, seen, value = calls[0]
        assert (attempt, value) == (1, "value")
        assert seen.id == result.id
        assert seen.status == TaskResultStatus.SUCCESSFUL  # by now
        assert seen.task.module_path == "tests.backend.tasks.see"

    def test_the_attempt_counts_without_results_being_kept(self, db):
        tasks.fail_until.using(backend="default").enqueue(3)
        run_queued(errors="retry")
        assert calls == [1, 2, 3]


class TestQueues:
    def test_the_queue_name_is_the_queue(self):
        tasks.mail.enqueue("a@example.com")
        assert queued()[0].queue == "mail"

    def test_using_another_queue(self):
        tasks.note.using(queue_name="mail").enqueue()
        assert queued()[0].queue == "mail"

    def test_a_queue_that_the_backend_does_not_have_is_refused(self):
        with pytest.raises(InvalidTask, match="slow"):
            tasks.note.using(queue_name="slow")

    @pytest.mark.parametrize(
        ("priority", "queue"),
        [
            (100, "now"),
            (50, "now"),
            (49, "default-soon"),
            (1, "default-soon"),
            (0, "default"),
            (-1, "later"),
            (-100, "later"),
        ],
    )
    def test_priorities_choose_the_queue_where_options_say_which(self, priority, queue):
        tasks.hurry.using(priority=priority).enqueue(1)
        assert queued()[0].queue == queue

    def test_the_worker_sees_queue_and_priority_as_they_were_given(self):
        job = tasks.see.using(backend="urgent", priority=7, queue_name="mail")
        job.enqueue(1)
        run_queued()
        seen = calls[0][1].task
        assert (seen.priority, seen.queue_name, seen.backend) == (7, "mail", "urgent")

    def test_priorities_are_supported_only_then(self):
        assert task_backends["urgent"].supports_priority is True
        assert task_backends["default"].supports_priority is False

    def test_without_such_options_a_priority_is_refused(self):
        with pytest.raises(InvalidTask, match="priority"):
            tasks.note.using(priority=1)


class TestWhatItSupports:
    def test_it_supports_run_after_and_async_tasks(self):
        backend = task_backends["default"]
        assert isinstance(backend, CloudTasksBackend)
        assert backend.supports_defer
        assert backend.supports_async_task

    def test_its_tasks_take_our_options(self):
        assert isinstance(tasks.note, CloudTask)


class TestArguments:
    def test_more_than_json_has_integer_keys_and_nan_travel_exactly(self):
        tasks.note.enqueue({1: "one"}, math.nan, math.inf)
        run_queued()
        (numbers, nan, inf), _ = calls[0]
        assert numbers == {1: "one"}
        assert math.isnan(nan)
        assert inf == math.inf

    def test_a_tuple_becomes_a_list_and_bytes_become_text(self):
        tasks.note.enqueue((1, 2), b"abc")
        run_queued()
        assert calls[0][0] == ([1, 2], "abc")

    @pytest.mark.parametrize(
        "value",
        [datetime(2026, 1, 1), object(), {1, 2}, timedelta(1)],
        ids=lambda value: type(value).__name__,
    )
    def test_what_json_does_not_have_is_refused(self, value):
        with pytest.raises(TypeError, match="type"):
            tasks.note.enqueue(value)
        assert queued() == []

    @pytest.mark.parametrize(
        ("args", "kwargs"), [((), {}), ((1, 2, 3), {}), ((1,), {"c": 1})]
    )
    def test_arguments_that_the_function_does_not_take_are_refused(self, args, kwargs):
        with pytest.raises(TypeError, match=r"tests\.backend\.tasks\.add"):
            tasks.add.enqueue(*args, **kwargs)
        assert queued() == []

    def test_the_context_is_not_for_the_caller_to_give(self):
        with pytest.raises(TypeError, match=r"tests\.backend\.tasks\.see"):
            tasks.see.enqueue()


class TestThirdParties:
    def test_a_task_of_a_package_runs_unchanged(self):
        thirdparty.send_all("Hello", ["a@example.com", "b@example.com"])
        run_queued()
        assert calls == [
            ("Hello", ["a@example.com"], False),
            ("Hello", ["b@example.com"], False),
        ]

    def test_its_task_with_a_context_runs_unchanged(self):
        thirdparty.resize.enqueue("cat.png", sizes=(1, 2))
        run_queued()
        assert calls == [(1, "cat.png", [1, 2])]


class TestValidation:
    def test_a_function_in_a_class_body_is_refused(self):
        with pytest.raises(InvalidTask, match="module level"):
            task(tasks.Holder.inner)

    def test_a_function_in_a_function_is_refused(self):
        def inner():
            pass

        with pytest.raises(InvalidTask, match="module level"):
            task(inner)
