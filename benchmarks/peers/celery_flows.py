"""Chains, chords, and a hand-written group of chunks, of Celery on Redis."""

from __future__ import annotations

import django
from celery import chain, chord, group
from django.apps import apps
from django.conf import settings
from django.db import transaction

from benchmarks.peers.celery_redis import LATE, application, command
from benchmarks.site.work import note, work

if not apps.ready:  # the worker imports this module first
    django.setup()

from benchmarks.site import CHUNK
from benchmarks.site import rows as table
from benchmarks.site.models import Row

TITLE = "Celery on Redis"
PACKAGES = ("celery", "redis")
PROMISE = (
    "Counters of chords are in Redis. A crash of the caller while it sends leaves a"
    " group half sent."
)
KEEPS = False
IN_TRANSACTION = False

app = application("flows", settings.REDIS, **LATE)
# Chords need results, which chains and groups of chunks do not.
app.conf.update(result_backend=settings.REDIS, result_expires=600)

run = app.task(work, name="work", ignore_result=True)


@app.task(ignore_result=False)
def hand_on(number: int) -> int:
    return number


@app.task(ignore_result=True)
def pass_on(number: int) -> int:
    return number


@app.task(ignore_result=True)
def end(number: int) -> None:
    note(number)


@app.task(ignore_result=True)
def join(values: list[int]) -> None:
    assert len(set(values)) == 1
    note(values[0])


@app.task(ignore_result=True)
def change(number: int, keys: list[int]) -> None:
    """A chunk: its UPDATEs commit together, and again if the chunk is repeated."""
    with transaction.atomic():
        for row in Row.objects.filter(pk__in=keys):
            table.change(row)
    note(number)


@app.task(ignore_result=True)
def change_together(number: int, keys: list[int]) -> None:
    table.change_together(keys)
    note(number)


def enqueue(number: int, milliseconds: int = 0) -> None:
    run.delay(number, milliseconds)


def chained(number: int) -> None:
    chain(pass_on.s(number), pass_on.s(), end.s()).delay()


def grouped(number: int, members: int) -> None:
    chord([hand_on.s(number)] * members)(join.s())


def walk(numbers: range, rows: int, *, together: bool) -> None:
    """A number for each chunk."""
    chunk = change_together if together else change
    keys = list(Row.objects.order_by("pk").values_list("pk", flat=True))
    group(
        chunk.s(number, keys[at : at + CHUNK])
        for number, at in zip(numbers, range(0, rows, CHUNK), strict=True)
    ).delay()


def notes(rows: int) -> int:
    return -(-rows // CHUNK)


def prepare() -> None:
    app.control.purge()


def workers() -> list[list[str]]:
    return [command("celery_flows")]
