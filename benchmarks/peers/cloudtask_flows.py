"""Chains, groups and iterations of cloudtask, with its emulator.

The workers are without threads. Such a worker accepts a request when it is free. One
with a thread would also accept the next page of an iteration while it is at work, and
the other worker would have nothing to do.
"""

from __future__ import annotations

from typing import Any

from benchmarks.peers.cloudtask_sync import PORTS, prepare, workers
from benchmarks.site import CHUNK, rows
from benchmarks.site.models import Row
from benchmarks.site.work import note, work
from cloudtask import chain, group, task

__all__ = ["PORTS", "prepare", "workers"]

TITLE = "cloudtask"
PACKAGES = ("gunicorn",)
PROMISE = "The rest of a chain, and the rows of a group, survive any crash."
KEEPS = True
IN_TRANSACTION = True


@task
def run(number: int, milliseconds: int = 0) -> None:
    work(number, milliseconds)


@task
def hand_on(number: int) -> int:
    return number


@task
def end(number: int) -> None:
    note(number)


@task
def join(values: list[int]) -> None:
    assert len(set(values)) == 1
    note(values[0])


@task
def change(row: Row, number: int) -> None:
    rows.change(row)


@task
def change_together(some: list[Row], number: int) -> None:
    rows.change_together([row.pk for row in some])


@task
def changed(number: int) -> None:
    note(number)


def enqueue(number: int, milliseconds: int = 0) -> None:
    run.defer(number, milliseconds)


def chained(number: int) -> None:
    chain(hand_on.s(number), hand_on.s(), end.s()).defer()


def grouped(number: int, members: int) -> None:
    group([hand_on.s(number)] * members).then(join.s()).defer()


def walk(numbers: range, rows: int, *, together: bool) -> None:
    """One number, which `finalize` notes."""
    options: Any = {"finalize": changed, "args": (numbers[0],), "atomic": "page"}
    if together:
        change_together.iterate(Row.objects.all(), batch_size=CHUNK, **options)
    else:
        change.iterate(Row.objects.all(), **options)


def notes(rows: int) -> int:
    return 1
