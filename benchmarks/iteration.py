"""Measures iterations: the cost of each row, queries, memory, and plans."""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from itertools import count
from time import perf_counter
from typing import Any

import pymysql
from django.db import connection, connections, models
from django.test.utils import CaptureQueriesContext

from benchmarks.harness import OURS, Budget, Case, Effort, Results, Scenario
from benchmarks.results import COUNT, NEAR, TIME
from cloudtask import task
from cloudtask.iteration import planner
from cloudtask.iteration.bounds import Bounds
from cloudtask.iteration.description import Description
from cloudtask.iteration.lease import Lease
from cloudtask.iteration.leg import CHECKPOINT, Leg
from cloudtask.iteration.planner import Plan
from cloudtask.iteration.rows import walk
from cloudtask.iteration.sources import Page, QuerySetSource
from cloudtask.iteration.sources.pages import PAGE_MAX
from cloudtask.runs import Run, RunState, Shard
from cloudtask.stores.database import DatabaseStore
from tests.databases import server_settings, why_unreachable

pymysql.version_info = (2, 2, 7, "final", 0)
pymysql.install_as_MySQLdb()

BARE = "a bare loop over the same pages"
ROWS = 200_000  # of the loops
PLANNED, SHARDS = 1_000_000, 32
MOST = 10_000_000  # planned on PostgreSQL
PLAN = "time of a plan"
PLANS = 7  # at most, as the first ones read the table from the disk
SKEW = 900_000_000  # first key of the last tenth
RUN = "b" * 32


class BenchmarkRow(models.Model):
    id = models.BigIntegerField(primary_key=True)
    size = models.IntegerField()

    class Meta:
        app_label = "benchmarks"

    def __str__(self) -> str:
        return str(self.id)


class Prefetched:
    """Pages of rows that are already in memory, so that only the loop is measured."""

    def __init__(self, rows: Sequence[Any]) -> None:
        self.rows = rows
        self.key = QuerySetSource(BenchmarkRow.objects.all()).key

    def page(self, bounds: Bounds, size: int, **others: Any) -> Page:
        low = bounds.low or 0
        rows = self.rows[low : low + size]
        keys = list(map(self.key, rows))
        return Page(rows, keys, keys[-1] if keys else low, not keys)


def visit(row: Any) -> None:
    pass


@task
def visit_row(row: Any) -> None:
    pass


def scenario(effort: Effort) -> Scenario:
    rows = [BenchmarkRow(id=n, size=n % 7) for n in range(1, ROWS + 1)]
    source = Prefetched(rows)
    small, large = (100_000, 1_000_000) if effort.thorough else (20_000, 200_000)
    costs = _Costs(small, large)
    planned = dict.fromkeys(_aliases(), PLANNED)
    if not effort.quick and "postgres" in planned:
        planned["postgres"] = MOST
    return Scenario(
        title=f"iterate {ROWS:,} rows; plan {SHARDS} shards of many",
        cases=[
            Case(BARE, lambda: _bare(source), ROWS),
            Case(OURS, lambda: _walked(source), 0),
            *_planning(planned),
        ],
        budgets=[
            Budget("the wrapper of a row", _wrapper, 0.15, " us", TIME),
            Budget("queries a page", lambda _: costs.queries_a_page, 1.01, "", COUNT),
            Budget(
                "UPDATEs in 2 seconds", lambda _: costs.updates_in_2s, 1.01, "", COUNT
            ),
            Budget(
                f"peak memory at {large:,} rows over {small:,}",
                lambda _: costs.memory,
                1.1,
                "x",
                NEAR,
            ),
            *_planning_budgets(planned),
        ],
        about=(
            "The loop is measured on rows in memory, so it is the cost of the wrapper"
            " alone. A plan reads keys of a table with a gap, and makes 32 shards."
        ),
        chart=False,
        around=partial(_tables, planned),
    )


def _wrapper(results: Results) -> float:
    return (results[OURS].best - results[BARE].best) * 1e6


def _bare(source: Prefetched) -> None:
    bounds = Bounds()
    while rows := source.rows[bounds.low or 0 : (bounds.low or 0) + PAGE_MAX]:
        for row in rows:
            visit(row)
        bounds = Bounds(rows[-1].pk)


def _walked(source: Prefetched) -> float:
    """The seconds of each row. The run and its shard are there before."""
    leg = _leg(source)
    started = perf_counter()
    walk(leg)
    return (perf_counter() - started) / ROWS


def _leg(source: Any, **changes: Any) -> Leg:
    store = DatabaseStore({})
    store.delete_run(RUN)
    run = Run(id=RUN, task="t", queue="q", state=RunState.PLANNING)
    store.create_run(run)
    store.add_part(RUN, 0, [Shard(run=RUN, index=0)], total=0)
    lease = timedelta(minutes=5)
    shard = store.acquire(RUN, 0, 0, lease=lease)
    assert shard is not None
    values = {
        "store": store,
        "run": run,
        "description": Description(arguments=b"[[], {}]"),
        "source": source,
        "function": visit,
        "row_attempts": 1,
        "shard": shard,
        "time": lease,
        "budget": 1e9,
        "clock": time.monotonic,
        **changes,
    }
    return Leg(Lease(**values))


class _Costs:
    """Figures that are counted, not timed; computed when first used."""

    def __init__(self, small: int, large: int) -> None:
        self.small, self.large = small, large

    @property
    def queries_a_page(self) -> float:
        pages = count()

        class Counting(QuerySetSource):
            def page(self, bounds: Bounds, size: int, **others: Any) -> Page:
                next(pages)
                return super().page(bounds, size, **others)

        with _rows(self.small) as rows:
            leg = _leg(Counting(rows))
            with CaptureQueriesContext(connection) as queries:
                walk(leg)
        return len(_of("SELECT", "benchmarkrow", queries)) / next(pages)

    @property
    def updates_in_2s(self) -> float:
        """Count queries, with a clock on which each row takes a millisecond."""
        ticks = count()
        with _rows(self.small) as rows:
            leg = _leg(QuerySetSource(rows), clock=lambda: next(ticks) / 1000)
            with CaptureQueriesContext(connection) as queries:
                walk(leg)
        seconds = next(ticks) / 1000
        return len(_of("UPDATE", "shard", queries)) / (seconds / CHECKPOINT)

    @property
    def memory(self) -> float:
        return self._peak(self.large) / self._peak(self.small)

    @staticmethod
    def _peak(number: int) -> int:
        with _rows(number) as rows:
            leg = _leg(QuerySetSource(rows))
            tracemalloc.start()
            walk(leg)
            _, peak = tracemalloc.get_traced_memory()
            tracemalloc.stop()
        print(f"  peak of {number:,} rows: {peak / 1e6:.1f} MB")
        return peak


def _of(verb: str, table: str, queries: CaptureQueriesContext) -> list[str]:
    return [
        query["sql"]
        for query in queries
        if query["sql"].startswith(verb) and table in query["sql"]
    ]


@contextmanager
def _rows(number: int) -> Iterator[models.QuerySet[BenchmarkRow]]:
    with filled("default", number, number):
        yield BenchmarkRow.objects.all()


# Plans


def _aliases() -> list[str]:
    reachable = [kind for kind in ("postgres", "mysql") if not why_unreachable(kind)]
    return ["default", *reachable]


_NAMES = {"default": "SQLite", "postgres": "PostgreSQL", "mysql": "MariaDB/MySQL"}
_plans: dict[str, Plan] = {}


Planned = Mapping[str, int]  # alias to rows


def _plan_case(alias: str, planned: Planned) -> str:
    return f"plan {planned[alias]:,} rows, {_NAMES[alias]}"


def _planning(planned: Planned) -> list[Case]:
    def planning(alias: str) -> Callable[[], float]:
        def run() -> float:
            rows = BenchmarkRow.objects.using(alias)
            started = perf_counter()
            _plans[alias] = planner.plan(rows, SHARDS, include_new=False)
            return perf_counter() - started

        return run

    return [
        Case(_plan_case(alias, planned), planning(alias), 0, most=PLANS, measure=PLAN)
        for alias in planned
    ]


def _planning_budgets(planned: Planned) -> list[Budget]:
    def unevenness(_: Results) -> float:
        with filled("postgres", PLANNED, PLANNED * 9 // 10):
            rows = BenchmarkRow.objects.using("postgres")
            plan = planner.plan(rows, SHARDS, include_new=False)
            sizes = [piece.bounds.of(rows).count() for piece in plan.pieces]
        return max(sizes) / (PLANNED / len(sizes))

    if "postgres" not in planned:
        return []
    return [
        Budget(
            f"planning {planned['postgres']:,} rows on PostgreSQL",
            lambda results: results[_plan_case("postgres", planned)].best * 1e3,
            100,
            " ms",
            TIME,
        ),
        Budget("the largest shard over the mean", unevenness, 2, "x", NEAR),
    ]


@contextmanager
def _tables(planned: Planned) -> Iterator[None]:
    """Create the tables in SQLite, and the skewed rows on each server.

    They are dropped at the end of the block.
    """
    from django.core.management import call_command

    call_command("migrate", verbosity=0, run_syncdb=False)
    for alias in _aliases()[1:]:
        connections.settings[alias] = connections.configure_settings(
            {alias: server_settings(alias), "default": {}}
        )[alias]
    tables = [filled(alias, rows, rows * 9 // 10) for alias, rows in planned.items()]
    for one in tables:
        one.__enter__()
    try:
        yield
    finally:
        for one in tables:
            one.__exit__(None, None, None)
        for alias in _aliases()[1:]:
            connections[alias].close()


# The numbers from 1, as a table with a column `i`.
_NUMBERS = {
    "sqlite": "(WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n"
    " WHERE i < {rows}) SELECT i FROM n)",
    "postgresql": "(SELECT generate_series(1, {rows}) AS i) AS n",
    "mysql": "(SELECT seq AS i FROM seq_1_to_{rows}) AS n",
}


@contextmanager
def filled(alias: str, rows: int, dense: int) -> Iterator[None]:
    """Create `rows` rows; keys above `dense` begin far away from the others."""
    there = connections[alias]
    with there.schema_editor() as editor:
        editor.execute("DROP TABLE IF EXISTS benchmarks_benchmarkrow")
        editor.create_model(BenchmarkRow)
    numbers = _NUMBERS[there.vendor].format(rows=rows)
    key = f"CASE WHEN i > {dense} THEN i + {SKEW} ELSE i END"
    values = f"SELECT {key}, i % 7 FROM {numbers}"
    insert = "INSERT INTO benchmarks_benchmarkrow (id, size) "
    with there.cursor() as cursor:
        cursor.execute(insert + values)
        if there.vendor == "postgresql":
            cursor.execute("ANALYZE benchmarks_benchmarkrow")
    try:
        yield
    finally:
        with there.schema_editor() as editor:
            editor.execute("DROP TABLE IF EXISTS benchmarks_benchmarkrow")
