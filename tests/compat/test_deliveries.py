"""Deferred calls through the real URL, middleware and verification."""

from __future__ import annotations

from cloudtask import current
from cloudtask.deferred import defer, defer_iteration_with_finalize
from cloudtask.testing import Faults, run_queued
from tests.backend import tasks as of_django
from tests.compat import things
from tests.testapp.models import Author, Book
from tests.testapp.tasks import calls


def test_a_deferred_call_is_delivered_to_its_url(db):
    defer(things.add_author, "Ann")
    defer(things.Greeter("Hello").greet, "Ann")
    run_queued(via="http")
    assert Author.objects.get().name == "Ann"
    assert calls == ["Hello, Ann"]


def test_a_task_of_django_is_delivered_to_its_url(db):
    result = of_django.keep.enqueue([1])
    run_queued(via="http")
    result.refresh()
    assert result.return_value == [1]


def test_rows_are_all_called_and_finalize_once_however_badly_it_is_delivered(db):
    Book.objects.bulk_create(Book(title=str(number)) for number in range(40))
    defer_iteration_with_finalize(Book.objects.all(), things.touch, things.note_end)
    run_queued(
        errors="retry",
        limit=10_000,
        faults=Faults(duplicate=0.3, reorder=True, lose_ack=0.2, seed=7),
    )
    assert Book.objects.filter(pages=1).count() == 40
    assert calls == [("end", (), {})]


def test_a_task_deferred_by_a_task_is_not_of_that_task():
    defer(things.defer_another)
    run_queued()
    assert calls == ["outer", "inner"]
    assert current() is None
