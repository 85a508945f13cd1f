"""Measures the dashboard's pages at scale, on PostgreSQL: queries and milliseconds.

`python -m benchmarks.pages` shows each page with 1, 25 and 1,000 failed tasks, runs and
messages. Then it shows 10,000 failed tasks, 1,000 runs of 256 shards, and 1,000,000
messages. It fails if the number of queries grows, if a page takes more than
MOST_QUERIES about tables of the library, or if it takes longer than MOST_MS.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.databases import server_settings, why_unreachable

MOST_QUERIES, MOST_MS = 6, 100.0
REPEATS = 7
NAME = "cloudtask_pages"
RUN, CALL = f"{1:032x}", "f1"


Found = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Scale:
    """How many of each there are."""

    failed: int
    runs: int
    shards: int
    outbox: int

    def __str__(self) -> str:
        return f"{self.failed:,} / {self.runs:,} x {self.shards} / {self.outbox:,}"


SMALL = (Scale(1, 1, 4, 1), Scale(25, 25, 4, 25), Scale(1_000, 1_000, 4, 1_000))
FULL = Scale(10_000, 1_000, 256, 1_000_000)

PAGES = {
    "overview": "",
    "overview, live": "?fragment=1",
    "iterations": "iteration/",
    "iterations, running": "iteration/?state=running",
    "iterations of a task": "iteration/?task=app.tasks.walk",
    "iterations, last page": "iteration/?before=2026-01-01 00:00:00.000000%2B00|x",
    "one iteration": f"iteration/{RUN}/change/",
    "failed tasks": "failed/",
    "failed tasks of a task": "failed/?task=shop.tasks.t1",
    "failed tasks by error": "failed/?kind=ValueError",
    "failed tasks of a queue": "failed/?queue=mail",
    "failed tasks of a day": "failed/?age=24h",
    "one failed task": f"failed/{CALL}/change/",
    "outbox, parked": "outbox/",
    "outbox, waiting": "outbox/?show=waiting",
    "queues": "queue/",
    "tasks": "task/",
    "results": "result/",
    "doctor": "doctor/",
}

urlpatterns: list[Any] = []  # filled once Django is set up


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pages")
    parser.add_argument("--quick", action="store_true", help="up to 1,000 of each")
    parser.add_argument("--json", type=Path, help="write the figures there, too")
    options = parser.parse_args()
    if (why := why_unreachable("postgres")) is not None:
        print(f"PostgreSQL can't be reached: {why}")
        return 1
    _set_up()
    with _database():
        found = _measure(SMALL if options.quick else (*SMALL, FULL))
    if options.json:
        options.json.write_text(json.dumps(found))
    return 0 if _shown(found) else 1


def _set_up() -> None:
    import django
    from django.conf import settings
    from django.urls import include, path

    apps = ("auth", "contenttypes", "sessions", "messages", "staticfiles")
    middleware = (
        "sessions.middleware.SessionMiddleware",
        "auth.middleware.AuthenticationMiddleware",
        "messages.middleware.MessageMiddleware",
    )
    processors = ("request",)
    settings.configure(
        SECRET_KEY="of the benchmarks",
        ALLOWED_HOSTS=["*"],
        ROOT_URLCONF="benchmarks.pages",
        USE_TZ=True,
        STATIC_URL="/static/",
        DATABASES={"default": {**server_settings("postgres"), "NAME": NAME}},
        INSTALLED_APPS=[*(f"django.contrib.{app}" for app in apps), "cloudtask"],
        MIDDLEWARE=[f"django.contrib.{one}" for one in middleware],
        TEMPLATES=[
            {
                "BACKEND": "django.template.backends.django.DjangoTemplates",
                "APP_DIRS": True,
                "OPTIONS": {
                    "context_processors": [
                        *(
                            f"django.template.context_processors.{p}"
                            for p in processors
                        ),
                        "django.contrib.auth.context_processors.auth",
                        "django.contrib.messages.context_processors.messages",
                    ]
                },
            }
        ],
        CLOUDTASK={
            "TRANSPORT": {"BACKEND": "cloudtask.transports.memory.MemoryTransport"}
        },
    )
    django.setup()
    pages = sys.modules["benchmarks.pages"]
    pages.urlpatterns = [  # type: ignore[attr-defined]
        path("tasks/", include("cloudtask.dashboard.urls")),
        path("_cloudtask/", include("cloudtask.urls")),
    ]


@contextmanager
def _database() -> Iterator[None]:
    from django.db import connection

    before = connection.settings_dict["NAME"]
    connection.creation.create_test_db(verbosity=0, autoclobber=True, serialize=False)
    try:
        yield
    finally:
        connection.creation.destroy_test_db(before, verbosity=0)


def _measure(scales: Sequence[Scale]) -> Found:
    from django.contrib.auth.models import User
    from django.test import Client

    client = Client()
    client.force_login(User.objects.create_superuser("ann"))
    found: dict[str, list[tuple[int, float]]] = {name: [] for name in PAGES}
    for scale in scales:
        _fill(scale)
        for name, url in PAGES.items():
            found[name].append(_looked_at(client, f"/tasks/{url}"))
    return {"scales": [str(scale) for scale in scales], "pages": found}


def _shown(found: Found) -> bool:
    """Print the table; whether all pages are within the limits."""
    scales = "".join(f"{scale:>36}" for scale in found["scales"])
    print(f"{'page':<24}{scales}")
    told = [_told(name, figures) for name, figures in found["pages"].items()]
    return all(told)


def _told(name: str, figures: Sequence[tuple[int, float]]) -> bool:
    """Print the line of a page; whether it is within the limits."""
    numbers = {queries for queries, _ in figures}
    is_right = (
        len(numbers) == 1 and max(numbers) <= MOST_QUERIES and figures[-1][1] <= MOST_MS
    )
    cells = "".join(f"{f'{q} queries {ms:.0f} ms':>36}" for q, ms in figures)
    print(f"{name:<24}{cells}{'' if is_right else '   TOO MUCH'}")
    return is_right


def _looked_at(client: Any, url: str) -> tuple[int, float]:
    """The queries about tables of the library, and the milliseconds of the best visit:
    other work of the machine slows the rest."""
    from django.db import connection
    from django.test.utils import CaptureQueriesContext

    answer = client.get(url)  # the first visit fills what is kept, such as templates
    assert answer.status_code == 200, (url, answer.status_code)
    with CaptureQueriesContext(connection) as captured:
        client.get(url)
        queries = [query["sql"] for query in captured]
    times = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        client.get(url)
        times.append((time.perf_counter() - started) * 1000)
    return sum('"cloudtask_' in sql for sql in queries), min(times)


def _fill(scale: Scale) -> None:
    """Replace all rows, by statements of the server itself."""
    from django.db import connection

    with connection.cursor() as cursor:
        cursor.execute(
            "TRUNCATE cloudtask_failedtask, cloudtask_iterationrun, "
            "cloudtask_iterationshard, cloudtask_iterationfailure, "
            "cloudtask_outboxmessage, cloudtask_taskresultrow, "
            "cloudtask_iterationchunk"
        )
        for statement in _statements(scale):
            cursor.execute(statement)
        _fill_one(scale)
        cursor.execute(_failures(scale))
        cursor.execute("ANALYZE")


def _fill_one(scale: Scale) -> None:
    """The run whose page is shown. The store makes it, since parts of it are sealed."""
    from cloudtask.runs import RunState
    from cloudtask.stores import store
    from tests.stores.runs_making import create, shards_of

    create(store(), RUN, RunState.PLANNING)
    assert store().add_part(RUN, 0, shards_of(RUN, scale.shards), total=scale.shards)


def _failures(scale: Scale) -> str:
    return f"""INSERT INTO cloudtask_iterationfailure (run_id, digest, key, shard,
            state, attempts, error, traceback, due_at)
        SELECT '{RUN}', md5(n::text), '"' || n || '"', 0, 'failed', 3,
            'ValueError: ' || n, repeat('t', 3000), now()
        FROM generate_series(1, {scale.failed}) n"""


def _statements(scale: Scale) -> list[str]:
    return [
        f"""INSERT INTO cloudtask_failedtask (key, task, kind, "group", queue, name,
            envelope, arguments, error, traceback, attempts, enqueued_at, failed_at)
        SELECT 'f' || n, 'shop.tasks.t' || n % 20, 'ValueError', 'g' || n % 60,
            'mail', 'n' || n, convert_to(repeat('x', 2000), 'UTF8'),
            repeat('a', 2000), 'ValueError: no ' || n, repeat(md5(n::text), 190), 3,
            now(), now() - n * interval '1 minute'
        FROM generate_series(1, {scale.failed}) n""",
        f"""INSERT INTO cloudtask_iterationrun (id, task, queue, state, description,
            options, is_planned, part, keep, total, generation, fence, attempts, error,
            waiting, is_summary, done, failed, skipped, created_at, touched_at, version)
        SELECT lpad(to_hex(n), 32, '0'), 'app.tasks.walk', 'bulk',
            CASE WHEN n % 10 = 0 THEN 'finished' ELSE 'running' END,
            convert_to(repeat('d', 5000), 'UTF8'), '', true, 0, true,
            {scale.shards} * 100, 0, 0, 0, '', '', n % 10 = 0, 90, 1, 0,
            now() - n * interval '1 minute', now(), 0
        FROM generate_series(2, {scale.runs}) n""",
        f"""INSERT INTO cloudtask_iterationshard (run_id, index, low, high, cursor,
            expected, seq, fence, state, lived, deaths, sweeps, is_walked, done, failed,
            skipped, touched_at, version)
        SELECT lpad(to_hex(n), 32, '0'), s, 's' || s, 's' || s, 's' || s, 100, 0, 0,
            CASE WHEN s % 2 = 0 THEN 'done' ELSE 'waiting' END, 0, 0, 0, false, 50, 1,
            0, now(), 0
        FROM generate_series(2, {scale.runs}) n,
            generate_series(0, {scale.shards} - 1) s""",
        f"""INSERT INTO cloudtask_outboxmessage (key, task, queue, envelope, state,
            created_at, due_at, attempts, error)
        SELECT 'o' || n, 'shop.tasks.t' || n % 20, 'mail',
            convert_to(repeat('x', 300), 'UTF8'),
            CASE WHEN n % 20 = 1 THEN 'parked' ELSE 'waiting' END,
            now() - n * interval '1 second', now() - n * interval '1 second', 1,
            CASE WHEN n % 20 = 1 THEN 'QueueNotFound: q' || n % 5 ELSE '' END
        FROM generate_series(1, {scale.outbox}) n""",
        f"""INSERT INTO cloudtask_taskresultrow (id, task, backend, queue, status, call,
            worker_ids, enqueued_at)
        SELECT 'r' || n, 'shop.tasks.t' || n % 20, 'default', 'mail', 'SUCCESSFUL', '',
            '[]', now() - n * interval '1 second'
        FROM generate_series(1, {scale.failed}) n""",
    ]


if __name__ == "__main__":
    sys.modules["benchmarks.pages"] = sys.modules["__main__"]
    sys.exit(main())
