"""Callbacks. Time is virtual: a row takes as long as `pace` says."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from asgiref.sync import sync_to_async

from cloudtask import PermanentTaskFailure, current, task
from tests.iteration.models import Effect
from tests.support import clock

TIMEOUT = 15  # seconds; with the margin of 10, a leg has 5


@dataclass
class Trace:
    """What the callbacks of the test did, in order: keys, and "finalize"."""

    calls: list[Any] = field(default_factory=list)
    pace: float = 0.0  # seconds a row
    raises: dict[Any, list[BaseException]] = field(default_factory=dict)
    # What the callback `act` does with a row, by key.
    acts: dict[Any, Callable[[Any], object]] = field(default_factory=dict)
    attempts: list[Any] = field(default_factory=list)  # of the last function
    report: Any = None  # as finalize saw it

    def visit(self, key: Any) -> None:
        self.calls.append(key)
        Effect.objects.create(key=str(key))
        clock.move(self.pace)
        if waiting := self.raises.get(key):
            raise waiting.pop(0)

    def end(self, name: str) -> None:
        context = current()
        self.calls.append(name)
        self.attempts.append(
            (context.attempt, context.max_attempts, context.is_last_attempt)
        )
        if waiting := self.raises.get(name):
            raise waiting.pop(0)

    @property
    def rows(self) -> list[Any]:
        return [call for call in self.calls if call not in ("finalize", "on_failure")]

    def clear(self) -> None:
        self.__init__()


trace = Trace()


@task(timeout=TIMEOUT)
def visit(row, *args, **kwargs):
    trace.visit(row.pk)


@task(timeout=TIMEOUT)
def act(row):
    trace.visit(row.pk)
    trace.acts.get(row.pk, bool)(row)


@task(timeout=TIMEOUT)
async def act_async(row):
    await sync_to_async(trace.visit)(row.pk)
    if action := trace.acts.get(row.pk):
        await action(row)


@task(timeout=TIMEOUT)
def act_many(rows):
    for row in rows:
        act(row)


@task(timeout=1800)
def act_long(row):
    trace.visit(row.pk)
    trace.acts.get(row.pk, bool)(row)


@task
def enlarge(row):
    row.size += 1
    row.save(update_fields=["size"])
    trace.visit(row.pk)


@task
def enlarge_many(rows):
    for row in rows:
        row.size += 1
        trace.visit(row.pk)
    type(row).objects.bulk_update(rows, ["size"])


@task(timeout=TIMEOUT)
def visit_many(rows, *args, **kwargs):
    for row in rows:
        trace.visit(row.pk)


@task(timeout=TIMEOUT)
def visit_item(item, *args):
    trace.visit(item)


@task
def refuse(item):
    raise PermanentTaskFailure("never")


@task
async def visit_async(row):
    trace.calls.append(row.pk)


@task
def finalize(*args, **kwargs):
    trace.report = current().iteration.report()
    trace.end("finalize")


@task(max_attempts=3)
def finalize_thrice(*args, **kwargs):
    trace.end("finalize")


@task(max_attempts=1)
def finalize_once(*args, **kwargs):
    trace.end("finalize")


@task(max_attempts=3)
def on_failure_thrice(*args, **kwargs):
    trace.end("on_failure")


@task(max_attempts=2)
def finalize_twice(*args, **kwargs):
    trace.calls.append("finalize")
    raise ValueError("no")


@task(atomic=True)
def finalize_atomically(*args, **kwargs):
    Effect.objects.create(key="finalize")
    trace.calls.append("finalize")


def plain_finalize(*args, **kwargs):
    trace.end("finalize")


@task
def on_failure(*args, **kwargs):
    trace.end("on_failure")


@task
def delete_row(row):
    trace.calls.append(row.pk)
    row.delete()


@task
def copy_row(row):
    trace.calls.append(row.pk)
    row.pk = -row.pk
    row.save(force_insert=True)


@task
def forget_key(row):
    trace.calls.append(row.pk)
    row.pk = None


@task
def defer_more(row):
    trace.calls.append(row.pk)
    visit_item.defer(f"deferred {row.pk}")


@task
def iterate_more(row):
    trace.calls.append(row.pk)
    visit_item.map([f"nested {row.pk}"])


def hidden(function):
    """A decorator that hides that the function is asynchronous."""

    def wrapper(*args):
        return function(*args)

    wrapper.__module__, wrapper.__qualname__ = __name__, "visit_hidden"
    return wrapper


async def _visit_hidden(row):
    trace.calls.append(row.pk)


visit_hidden = task(hidden(_visit_hidden))


@task
def note_context(row):
    context = current()
    trace.calls.append((context.iteration.id, context.shard_index))


@task
def dangle(author, poison):
    """Writes a book; that of the poisonous author points at nobody."""
    from tests.testapp.models import Book

    Book.objects.create(title="b", author_id=-1 if author.pk == poison else author.pk)


@task
def visit_only(row):
    """Writes nothing."""
    trace.calls.append(row.pk)


@task
def note_caches(book):
    is_joined = "author" in book._state.fields_cache
    is_deferred = "data" in book.get_deferred_fields()
    trace.calls.append((is_joined, is_deferred, bool(book._prefetched_objects_cache)))


@task
def no_arguments():
    trace.calls.append("finalize")


@task(atomic=True)
def finalize_atomically_for_a_row(row):
    from django.db import connection

    trace.calls.append(len(connection.savepoint_ids) > 0)


@task
def visit_length(item):
    trace.calls.append(len(item))


@task
def spoil(item):
    trace.calls.append(item.pop("left"))
    if len(trace.calls) == 1:
        raise ValueError("once more")


class Greeter:
    @task
    def greet(self, row):
        trace.calls.append(row)


@task
def mark(things):
    Effect.objects.bulk_create(Effect(key=str(thing.pk)) for thing in things)


@task
def mark_slowly(thing, seconds):
    time.sleep(seconds)
    Effect.objects.create(key=str(thing.pk))


@task
def mark_finalized(*args):
    Effect.objects.create(key="finalize")


@task
def begin(number):
    return number


@task(atomic=True)
def leave_effect(number):
    Effect.objects.create(key=str(number))
    return number * 2


@task
def finish(number):
    return number + 1


@task(atomic=True, keep_result=3600)
def gather(numbers):
    Effect.objects.create(key="finalize")
    return numbers
