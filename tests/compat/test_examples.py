"""djangae's documented examples, changed in their imports alone.

Above each import stands the one that djangae's documentation has in its place.
"""

# ruff: noqa: PT009, PT027  the examples are written for unittest

from __future__ import annotations

from datetime import timedelta

import pytest
from django.http import HttpResponse
from django.test import RequestFactory, TestCase
from django.utils import timezone

# from djangae.tasks import deferred
# from djangae.tasks.deferred import defer, ...
from cloudtask import deferred

# from djangae.tasks.decorators import task_only, task_or_superuser_only
from cloudtask.decorators import csrf_exempt_if_task, task_only, task_or_superuser_only
from cloudtask.deferred import (
    PermanentTaskFailure,
    defer,
    defer_iteration_with_finalize,
    get_deferred_shard_index,
)

# from djangae.tasks.environment import ...
from cloudtask.environment import is_in_task, task_name, task_queue_name

# from djangae.test import TestCase, TaskFailedBehaviour, TaskFailedError
from cloudtask.testing import TaskFailedBehaviour, TaskFailedError, TestCaseMixin
from tests.testapp.models import Author, Book
from tests.testapp.tasks import calls

arg1, arg2 = "first", "second"


def my_function(*args, **kwargs):
    calls.append((args, kwargs))


def process_argument(arg):
    Author.objects.create(name=arg)


def assert_cache_wiped(instance):
    field = Book._meta.get_field("author")
    assert field.get_cached_value(instance, None) is None


def permanent_task_failure():
    raise PermanentTaskFailure


counter = {}


def throw_once():
    counter["calls"] = counter.get("calls", 0) + 1
    if counter["calls"] == 1:
        raise Exception("First call")  # as djangae's own test has it


def callback(instance, touch=True):
    shard_index = get_deferred_shard_index()
    assert shard_index >= 0
    assert shard_index < 5
    if touch:
        instance.pages = 1
    instance.save()


def finalize(*args, **kwargs):
    Book.objects.update(title="finalized")


def deferred_func():
    assert is_in_task()
    assert task_name()
    assert task_queue_name()


class TheDocumentation(TestCaseMixin, TestCase):
    def test_defer_with_a_queue(self):
        # The documentation says "queue_name", which no service takes: no underscores.
        defer(my_function, arg1, arg2, _queue="queue-name")
        self.assertEqual(self.get_task_count("queue-name"), 1)
        self.process_task_queues()
        self.assertEqual(calls, [(("first", "second"), {})])

    def test_defer_through_the_module(self):
        deferred.defer(my_function, arg1, key=arg2, _countdown=60)
        deferred.defer(my_function, _eta=timezone.now() + timedelta(minutes=5))
        self.assertNumTasksEquals(2)

    def test_defer_iteration_with_finalize_through_the_module(self):
        Book.objects.bulk_create(Book() for _ in range(25))
        queryset = Book.objects.all()
        deferred.defer_iteration_with_finalize(
            queryset,
            callback,
            finalize,
        )
        self.process_task_queues()
        self.assertEqual(Book.objects.filter(title="finalized", pages=1).count(), 25)

    def test_identifying_a_task_shard(self):
        shard_index = get_deferred_shard_index()
        self.assertIsNone(shard_index)


class Defers(TestCaseMixin, TestCase):
    """The tests that djangae itself has."""

    def test_queues_task(self):
        initial_count = self.get_task_count()
        defer(my_function)
        self.assertEqual(self.get_task_count(), initial_count + 1)

    def test_wipe_related_caches(self):
        a = Book.objects.create(author=Author.objects.create())
        a.author  # noqa: B018  makes sure that it is cached
        defer(assert_cache_wiped, a)
        try:
            self.process_task_queues()
        except TaskFailedError as e:
            raise e.original_exception from None
        self.assertTrue(Book._meta.get_field("author").is_cached(a))

    def test_deprecated_target_parameter(self):
        self.assertRaises(UserWarning, defer, my_function, _target="test")

    def test_permanent_task_failure(self):
        defer(permanent_task_failure)
        self.process_task_queues()
        self.assertEqual(self.get_task_count(), 0)

    def test_task_queue_processing_control(self):
        counter.clear()
        defer(throw_once)
        self.process_task_queues(failure_behaviour=TaskFailedBehaviour.RETRY_TASK)
        self.assertEqual(counter["calls"], 2)
        counter.clear()
        defer(throw_once)
        self.assertRaises(
            TaskFailedError,
            self.process_task_queues,
            failure_behaviour=TaskFailedBehaviour.RAISE_ERROR,
        )
        self.assertEqual(counter["calls"], 1)

    def test_passing_args_and_kwargs(self):
        Book.objects.bulk_create(Book() for _ in range(25))
        defer_iteration_with_finalize(
            Book.objects.all(),
            callback,
            finalize,
            touch=False,  # kwarg to not touch the objects at all
            _shards=5,
        )
        self.process_task_queues()
        self.assertEqual(0, Book.objects.filter(pages=1).count())

    def test_task_headers_are_available_in_tests(self):
        defer(deferred_func)
        self.process_task_queues()
        self.assertFalse(task_name())
        self.assertFalse(task_queue_name())


@pytest.mark.parametrize(
    ("guard", "method", "status"),
    [
        (task_only, "get", 403),
        (task_or_superuser_only, "get", 403),
        (csrf_exempt_if_task, "get", 200),
    ],
)
def test_the_decorators_of_views(guard, method, status):
    @guard
    def view(request):
        return HttpResponse("Hello")

    request = getattr(RequestFactory(), method)("/")
    assert view(request).status_code == status


def test_guards_let_in_the_cron_of_app_engine(monkeypatch):
    monkeypatch.setenv("GAE_ENV", "standard")
    request = RequestFactory().get("/", headers={"X-AppEngine-Cron": "true"})
    for guard in (task_only, task_or_superuser_only, csrf_exempt_if_task):
        assert guard(lambda request: HttpResponse("in"))(request).status_code == 200


def test_nobody_else_can_claim_to_be_cron():
    request = RequestFactory().get("/", headers={"X-AppEngine-Cron": "true"})
    assert task_only(lambda request: HttpResponse("in"))(request).status_code == 403
