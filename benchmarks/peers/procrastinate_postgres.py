"""Procrastinate on PostgreSQL, with its connector for Django."""

from __future__ import annotations

import sys
from collections.abc import Iterable

from procrastinate import JobContext
from procrastinate.contrib.django import app
from procrastinate.contrib.django.models import ProcrastinateJob

from benchmarks.site.work import work

TITLE = "Procrastinate on PostgreSQL"
PACKAGES = ("procrastinate",)
PROMISE = (
    "A call in a transaction is committed with it. A periodic task of yours repeats the"
    " calls of workers that crashed."
)
KEEPS = True
IN_TRANSACTION = True

run = app.task(work, name="work")


# The library's own advice: without it, a call of a crashed worker stays as it is.
@app.periodic(cron="*/10 * * * *")
@app.task(queueing_lock="retry_stalled_jobs", pass_context=True)
async def retry_stalled_jobs(context: JobContext, timestamp: int) -> None:
    for job in await app.job_manager.get_stalled_jobs():
        await app.job_manager.retry_job(job)


def enqueue(number: int, milliseconds: int = 0) -> None:
    run.defer(number=number, milliseconds=milliseconds)


def enqueue_many(numbers: Iterable[int]) -> None:
    run.batch_defer(*({"number": number} for number in numbers))


def prepare() -> None:
    from django.db import connection

    table = ProcrastinateJob._meta.db_table
    with connection.cursor() as cursor:
        cursor.execute(f"TRUNCATE {table} CASCADE")


def workers() -> list[list[str]]:
    command = [sys.executable, "-m", "django", "procrastinate", "worker"]
    return [[*command, "--concurrency=1"]] * 2
