"""What a task shows of itself, and its verbs for asynchronous code."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from django.core.exceptions import SynchronousOnlyOperation

from cloudtask import call, current, deferred
from cloudtask.deferrable.familiar import OURS
from cloudtask.deferrable.verbs import VERBS
from cloudtask.exceptions import CloudTaskError, UnsupportedValue
from cloudtask.testing import queued, run_queued
from tests.testapp import tasks
from tests.testapp.models import Author
from tests.testapp.shapes import Shape

FACES = {
    "task": tasks.note,
    "bound task": Shape(7).draw,
    "task with options": tasks.note.using(queue="mail"),
}
faces = pytest.mark.parametrize("face", FACES.values(), ids=FACES)


# What it shows.


@faces
def test_completion_offers_the_verbs(face: Any) -> None:
    assert set(VERBS) <= set(dir(face))
    assert all(callable(getattr(face, verb)) for verb in VERBS)


@faces
def test_the_repr_names_the_task_and_the_verbs(face: Any) -> None:
    assert "tests.testapp." in repr(face)
    assert "defer, adefer, using, iterate, map" in repr(face)


def test_a_bound_task_tells_path_and_options_as_the_task_does() -> None:
    for bound in (Shape(7).draw, Shape.draw):
        assert bound.path == "tests.testapp.shapes.Shape.draw"
        assert bound.options.queue == "default"


def test_the_repr_of_options_shows_no_values() -> None:
    shown = repr(tasks.note.using(headers={"X-Api-Key": "hunter2"}, queue="mail"))
    assert "with headers, queue" in shown
    assert "hunter2" not in shown


def test_completion_still_offers_what_the_function_has() -> None:
    assert {"__name__", "__code__", "options", "path"} <= set(dir(tasks.note))


@faces
@pytest.mark.parametrize("name", OURS)
def test_a_name_of_another_library_is_told_ours(face: Any, name: str) -> None:
    with pytest.raises(AttributeError, match=rf"has no '{name}': write \.") as caught:
        getattr(face, name)
    assert "tests.testapp." in str(caught.value)


@faces
def test_any_other_name_is_an_attribute_error_as_usual(face: Any) -> None:
    assert not hasattr(face, "nothing_of_the_kind")
    with pytest.raises(AttributeError, match="no attribute 'nothing_of_the_kind'"):
        _ = face.nothing_of_the_kind


def test_an_attribute_of_the_function_goes_before_a_hint() -> None:
    tasks.note.delay = 7  # type: ignore[attr-defined]
    try:
        assert tasks.note.delay == 7
    finally:
        del tasks.note.delay


# The context.


def test_a_plain_call_has_no_context() -> None:
    assert current() is None
    with pytest.raises(CloudTaskError, match="No task runs here"):
        current(required=True)


def test_a_delivery_has_a_context() -> None:
    tasks.note_context.defer()
    run_queued()
    assert tasks.calls == [tasks.note_context.path]


# Refusals.

LOCK = threading.Lock()
ROWS = Author.objects.all()


def last() -> None:
    """No worker imports it."""


last.__module__ = "__main__"


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("place", "verb"),
    [
        ("args[0]", lambda task: task.defer(LOCK)),
        ("kwargs['b']", lambda task: task.using(countdown=1).defer(1, b=LOCK)),
        ("args[0]", lambda task: task.using(unique=True).defer(LOCK)),
        ("The unique key", lambda task: task.using(unique=lambda a: LOCK).defer(1)),
        ("its backoff", lambda task: task.using(backoff=lambda *_: 1.0).defer(1)),
        ("calls[1]", lambda task: task.defer_many([call(1), call(LOCK)])),
        ("args[0]", lambda task: asyncio.run(task.adefer(LOCK))),
        ("items[1]", lambda task: task.map([1, LOCK])),
        ("args[0]", lambda task: task.map([1], args=(LOCK,))),
        ("kwargs['b']", lambda task: task.iterate(ROWS, kwargs={"b": LOCK})),
        ("is sliced", lambda task: task.iterate(ROWS[:3])),
        ("is list", lambda task: task.iterate([1])),
        ("finalize", lambda task: task.iterate(ROWS, finalize=lambda: None)),
        ("no worker imports", lambda task: task.iterate(ROWS, on_failure=last)),
        ("args[0]", lambda task: deferred.defer(task, LOCK)),
    ],
)
def test_a_refused_value_names_the_task_and_the_place(
    place: str, verb: Callable[[Any], Any]
) -> None:
    with pytest.raises(UnsupportedValue) as caught:
        verb(tasks.note)
    assert place in str(caught.value)
    assert tasks.note.path in str(caught.value)


# Asynchronous code.


async def letters() -> AsyncIterator[str]:
    for letter in "ab":
        yield letter


def test_adefer_many_does_what_defer_many_does() -> None:
    calls = [call(1), call(2, b=3)]
    receipts = asyncio.run(tasks.note.adefer_many(calls))
    assert [r.id for r in receipts] == [w.id for w in queued()]
    run_queued()
    assert tasks.calls == [((1,), {}), ((2,), {"b": 3})]


@pytest.mark.django_db(transaction=True)
def test_aiterate_does_what_iterate_does() -> None:
    Author.objects.create(name="Ann")
    policy = {"args": (1,), "keep": True}
    run = asyncio.run(tasks.note.aiterate(Author.objects.all(), **policy))
    run_queued()
    assert run.progress().done == 1
    assert [args[1:] for args, _ in tasks.calls] == [(1,)]


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("items", [lambda: ["a", "b"], letters])
def test_amap_takes_what_is_iterated_either_way(items: Callable[[], Any]) -> None:
    asyncio.run(tasks.note.amap(items()))
    run_queued()
    assert sorted(args for args, _ in tasks.calls) == [("a",), ("b",)]


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(
    ("verb", "arguments"),
    [
        ("defer", (1,)),
        ("defer_many", ([call(1)],)),
        ("iterate", (Author.objects.all(),)),
        ("map", ([1],)),
    ],
)
def test_a_synchronous_verb_says_what_to_await(verb: str, arguments: Any) -> None:
    # A unique call claims its key in the database.
    once = tasks.note.using(unique=True)

    async def work() -> None:
        getattr(once, verb)(*arguments)

    with pytest.raises(SynchronousOnlyOperation, match=rf"write await .*\.a{verb}\("):
        asyncio.run(work())
    assert queued() == []
