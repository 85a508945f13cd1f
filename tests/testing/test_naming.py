"""Tasks of `django.tasks`, and functions that are deferred, named as tasks are."""

from __future__ import annotations

import functools
from datetime import timedelta
from unittest.mock import ANY

import pytest
from django.utils import timezone

from cloudtask.deferred import defer
from cloudtask.testing import (
    NotIdempotent,
    assert_enqueued,
    assert_idempotent,
    assert_not_enqueued,
    eager,
    enqueues,
    enqueues_nothing,
    queued,
    run_queued,
)
from tests.backend import tasks as djangos
from tests.compat import things
from tests.testapp.models import Author
from tests.testapp.tasks import calls
from tests.testing import tasks


def enqueue_two(a, b):
    djangos.add.enqueue(*a)
    djangos.add.enqueue(*b)
    return djangos.add


def defer_two(a, b):
    defer(things.two, *a)
    defer(things.two, *b)
    return things.two


BOTH = pytest.mark.parametrize("enqueue", [enqueue_two, defer_two])


def refused(*args, **kwargs):
    with pytest.raises(AssertionError) as caught:
        assert_enqueued(*args, **kwargs)
    return str(caught.value)


@BOTH
def test_their_calls_are_found_by_their_arguments(enqueue):
    task = enqueue((1, 2), (3, 4))
    assert_enqueued(task, count=2)
    assert [call.args for call in assert_enqueued(task, 3)] == [(3, 4)]
    assert_enqueued(task, a=ANY, b=2, count=1)
    assert_not_enqueued(task, 5)


@BOTH
def test_what_is_missing_is_told_with_what_differs(enqueue):
    task = enqueue((1, 2), (3, 4))
    path = queued(task)[0].task
    assert refused(task, 3, 2).splitlines() == [
        f"{path}(3, 2) was not enqueued. These calls are queued:",
        f"  {path}(1, 2) on 'default': a=1 instead of 3",
        f"  {path}(3, 4) on 'default': b=4 instead of 2",
    ]


@BOTH
def test_as_a_block(enqueue):
    task = enqueue((0, 0), (0, 0))
    with enqueues(task, count=2) as found, eager():
        enqueue((1, 2), (3, 4))
    assert [call.args for call in found] == [(1, 2), (3, 4)]
    with pytest.raises(AssertionError), enqueues_nothing(task):
        enqueue((1, 2), (3, 4))


@BOTH
def test_they_are_listed_run_and_counted(enqueue):
    tasks.see.defer()
    task = enqueue((1, 2), (3, 4))
    assert [call.args for call in queued(task)] == [(1, 2), (3, 4)]
    report = run_queued(task)
    assert calls == [(1, 2), (3, 4)]
    assert (report.calls[task], report.calls[tasks.see]) == (2, 0)
    assert {ran.task for ran in report.ran} == set(report.calls)
    assert [call.task for call in queued()] == [tasks.see.path]


@BOTH
def test_over_http_they_are_counted_as_well(enqueue):
    task = enqueue((1, 2), (3, 4))
    assert run_queued(via="http").calls[task] == 2


@pytest.mark.parametrize(
    ("task", "path"),
    [
        (tasks.mail, "tests.testing.tasks.mail"),
        (djangos.mail, "tests.backend.tasks.mail"),
        (things.two, "tests.compat.things.two"),
        (tasks.mail.using(queue="slow"), "tests.testing.tasks.mail"),
    ],
)
@pytest.mark.parametrize("look", [assert_enqueued, assert_not_enqueued])
def test_an_argument_that_none_of_their_calls_can_have_is_refused(look, task, path):
    with pytest.raises(TypeError, match=rf"^{path}\(.*'colour'"):
        look(task, colour="red")
    with pytest.raises(TypeError, match=rf"^{path}\(.*too many positional arguments"):
        look(task, 1, 2, 3, 4)


def test_a_misspelt_keyword_is_told_the_nearest_even_if_nothing_is_queued():
    with pytest.raises(TypeError, match=r"'templte'; did you mean 'template'\?$"):
        assert_enqueued(tasks.mail, templte="rich")


@pytest.mark.parametrize("wrong", [7, "tests.testing.tasks.mail", None])
def test_what_is_no_task_is_refused(wrong):
    with pytest.raises(TypeError, match="Name a task"):
        assert_enqueued(wrong)


# Of django.tasks


def test_a_task_of_django_is_found_by_what_using_has_changed():
    moment = timezone.now() + timedelta(hours=1)
    djangos.add.using(queue_name="mail", run_after=moment, max_attempts=3).enqueue(1)
    assert_enqueued(djangos.add, 1)
    assert_enqueued(djangos.add.using(queue_name="mail"))
    assert_enqueued(djangos.add.using(run_after=moment))
    assert_enqueued(djangos.add.using(max_attempts=3))
    assert_not_enqueued(djangos.add.using(max_attempts=4))
    assert_not_enqueued(djangos.add.using(run_after=moment + timedelta(minutes=1)))


def test_its_backend_and_its_priority_count():
    urgent = djangos.add.using(backend="urgent")
    urgent.using(priority=60).enqueue(1)
    assert_enqueued(urgent.using(priority=60), 1)
    assert "priority=60 instead of 70" in refused(urgent.using(priority=70), 1)
    assert "backend='urgent' instead of 'kept'" in refused(
        djangos.add.using(backend="kept"), 1
    )


def test_its_context_is_no_argument():
    djangos.see.enqueue(5)
    assert_enqueued(djangos.see, 5)
    assert_enqueued(djangos.see, value=5)


def test_its_arguments_are_what_json_makes_of_them():
    djangos.note.enqueue((1, 2), at={"a": (3,)})
    assert_enqueued(djangos.note, (1, 2), at={"a": (3,)})
    assert_enqueued(djangos.note, [1, 2], at=ANY)


def test_a_unique_one_is_found():
    djangos.add.using(unique=True, small=True).enqueue(1)
    assert_enqueued(djangos.add.using(unique=True), 1)


def test_a_task_of_another_backend_is_refused():
    with pytest.raises(TypeError, match=r"by ImmediateBackend, because of TASKS\['imm"):
        assert_enqueued(djangos.add.using(backend="immediate"))


# Deferred


def test_a_method_is_found_by_its_object(db):
    first, second = (Author.objects.create(name=name) for name in "ab")
    defer(first.save, update_fields=["name"])
    assert_enqueued(first.save, update_fields=["name"])
    assert_not_enqueued(second.save)
    assert [call.task for call in queued(first.save)] == [
        "tests.testapp.models.Author.save"
    ]


@pytest.mark.parametrize(
    "function",
    [
        things.Greeter,
        things.Greeter("Hello"),
        things.Greeter("Hello").greet,
        things.Greeter.of_class,
        functools.partial(things.two, 1),
        things.remembered,
    ],
)
def test_any_callable_is_found(function):
    defer(function, "x")
    assert_enqueued(function, "x", count=1)
    assert_enqueued(function)
    assert_not_enqueued(function, "y")
    assert_not_enqueued(things.note)


def test_objects_are_told_apart_by_what_they_are_made_of():
    defer(things.Greeter("Hello").greet, "Ann")
    assert_enqueued(things.Greeter("Hello").greet, "Ann")
    assert_not_enqueued(things.Greeter("Bye").greet)
    assert_not_enqueued(things.LoudGreeter("Hello").greet)


def test_a_call_whose_arguments_rest_in_a_store_is_found(db):
    defer(things.note, "x" * 2_000_000)
    assert_enqueued(things.note)
    assert run_queued().calls[things.note] == 1


# Idempotence


@pytest.mark.django_db
def test_a_function_that_is_not_idempotent_is_found_out():
    with pytest.raises(NotIdempotent, match=r"^tests\.compat\.things\.add_author is"):
        assert_idempotent(things.add_author, "Ada")


@pytest.mark.django_db
def test_a_task_of_django_may_be_idempotent():
    assert_idempotent(djangos.add, 1)
