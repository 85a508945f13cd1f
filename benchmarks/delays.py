"""Measures calls whose servers are 1, 5 or 20 ms away."""

from __future__ import annotations

import random
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from urllib.parse import urlsplit

from benchmarks.end_to_end import prepare_database
from benchmarks.harness import Effort
from benchmarks.processes import (
    Bench,
    Caller,
    Unavailable,
    answers,
    bench,
    free_port,
    started,
)
from benchmarks.proxy import Proxy, command
from benchmarks.results import Figure, Outcome

ROUND_TRIPS = (0, 1, 5, 20)  # milliseconds; the first shows the proxy alone
PEERS = (
    "cloudtask_emulator",
    "celery_redis",
    "dramatiq_redis",
    "rq_redis",
    "huey_redis",
    "procrastinate_postgres",
    "django_tasks_db_postgres",
)
MANY = 500  # calls of a bulk, and rows of a backlog
# What is measured: way, calls at once, and whether only bulk peers can do it.
WAYS = {
    "one call": ("singly", 1),
    "one call in a transaction": ("committed", 1),
    f"each of {MANY} calls enqueued together": ("many", MANY),
    f"each of {MANY} rows relayed": ("relayed", MANY),
}
SECONDS = 0.7  # that a sample takes about
OURS = "cloudtask, its emulator"
ABOUT = (
    "A proxy holds back what goes to and comes from Cloud Tasks, Redis and PostgreSQL."
    " The figures are milliseconds of the caller for each call. A call in a transaction"
    " inserts a row and commits. cloudtask, Procrastinate and django-tasks-db write the"
    " call in the same transaction. cloudtask then sends it and deletes its row. The"
    " others send after the commit, and a crash in between loses the call. Relayed rows"
    " are what such a crash leaves in the outbox of cloudtask. The driver of PostgreSQL"
    " and the client of Redis wait for an answer to each statement or command."
)


def outcome(effort: Effort) -> Outcome:
    prepare_database()
    trips = (0, 5) if effort.quick else ROUND_TRIPS
    samples: dict[tuple[str, str], list[float]] = {}
    missing: dict[str, str] = {}
    order = random.Random(0)
    for peer in order.sample(PEERS, len(PEERS)):
        try:
            with _delayed(peer) as (caller, proxy):
                _measure(caller, proxy, order.sample(trips, len(trips)), samples)
        except Unavailable as error:
            missing[peer] = str(error)
    titles = list(dict.fromkeys(title for _, title in samples))
    measures = [f"{way}, {trip} ms" for way in WAYS for trip in trips]
    return Outcome(
        name="delays",
        title="The caller's time with a round trip of so many ms",
        baseline=OURS,
        about=ABOUT,
        charts=[f"{way}, 5 ms" for way in list(WAYS)[:2]],
        figures=[
            Figure(case=title, measure=measure, unit="ms", samples=found)
            for measure in measures
            for title in sorted(titles, key=lambda title: title != OURS)
            if (found := samples.get((measure, title)))
        ],
        missing=missing,
    )


def _measure(
    caller: Caller,
    proxy: Proxy,
    trips: list[int],
    samples: dict[tuple[str, str], list[float]],
) -> None:
    facts = caller("describe")
    for verb, count in WAYS.values():
        if verb in facts["ways"]:
            caller("enqueue", way=verb, count=count)  # connects
    for trip in trips:
        proxy.round_trip(trip)
        for way, (verb, count) in WAYS.items():
            if verb not in facts["ways"]:
                continue
            took = caller("enqueue", way=verb, count=count)
            times = int(min(200, max(3, SECONDS / (took * count))))
            found = [caller("enqueue", way=verb, count=count) for _ in range(times)]
            key = f"{way}, {trip} ms", facts["title"]
            samples[key] = [seconds * 1e3 for seconds in found]


@contextmanager
def _delayed(peer: str) -> Iterator[tuple[Caller, Proxy]]:
    """A caller whose servers are behind a proxy, and which has no workers."""
    with bench(peer) as place, ExitStack() as stack:
        ports = {name: free_port() for name in ("REDIS", "DATABASE", "CLOUD")}
        redis, database = place.upstreams()
        routes = {
            ports["REDIS"]: redis,
            ports["DATABASE"]: database,
            ports["CLOUD"]: ("127.0.0.1", place.ports["EMULATOR"]),
        }
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        process = stack.enter_context(started(command(routes), {}, place.log, **pipes))
        place.wait_until(lambda: all(answers(port) for port in ports.values()))
        caller = place.caller(**_through_proxy(place, ports))
        caller("prepare")
        if peer == "cloudtask_emulator":
            place.start(caller("workers")[0])
            place.wait_for(["EMULATOR"])
            caller("hold")
        yield caller, Proxy(process)


def _through_proxy(place: Bench, ports: dict[str, int]) -> dict[str, str]:
    redis = urlsplit(place.redis)
    return {
        "BENCH_REDIS_URL": redis._replace(
            netloc=f"127.0.0.1:{ports['REDIS']}"
        ).geturl(),
        "BENCH_DATABASE_PORT": str(ports["DATABASE"]),
        "CLOUD_TASKS_EMULATOR_HOST": f"127.0.0.1:{ports['CLOUD']}",
    }
