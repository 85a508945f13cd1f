"""Walks large tables of PostgreSQL: a filter that finds little, and many shards.

`python -m benchmarks.walks` prints time, statements and memory; it has no budgets. Each
row of the run is called in this process, one delivery after the other.
"""

from __future__ import annotations

import resource
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from benchmarks import project

SPARSE, MATCHES, TIMEOUT = 3_000_000, 10, 2  # rows, rows that are found, seconds
LARGE, SHARDS = 1_000_000, 8


class Statements:
    """Statements of a connection: the number of each verb, the slowest, and those that
    the server ended."""

    def __init__(self) -> None:
        self.verbs: Counter[str] = Counter()
        self.slowest = 0.0
        self.ended = 0

    def __call__(self, execute: Callable[..., Any], sql: str, *rest: Any) -> Any:
        self.verbs[sql.split(None, 1)[0]] += 1
        before = time.perf_counter()
        try:
            return execute(sql, *rest)
        except Exception:
            self.ended += 1
            raise
        finally:
            self.slowest = max(self.slowest, time.perf_counter() - before)


def memory() -> float:
    """The most memory that the process has had, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


@contextmanager
def measured(what: str) -> Iterator[None]:
    from django.db import connections

    statements, before, started = Statements(), memory(), time.perf_counter()
    with connections["postgres"].execute_wrapper(statements):
        yield
    took = time.perf_counter() - started
    verbs = ", ".join(f"{n:,} {verb}" for verb, n in sorted(statements.verbs.items()))
    print(
        f"{what}: {took:.2f} s; {verbs}; {statements.ended} ended by the server, the "
        f"slowest took {statements.slowest:.2f} s; memory {before:.0f} to "
        f"{memory():.0f} MB"
    )


def walk(queryset: Any, shards: int | None) -> int:
    """Plan and walk a queryset to its end; the number of rows that were called."""
    from benchmarks.iteration import visit_row
    from cloudtask.iteration import RunState
    from cloudtask.testing import run_queued

    run = visit_row.iterate(queryset, shards=shards, keep=True)
    run_queued()
    assert run.refresh().state is RunState.FINISHED, run.error
    return run.report().done


def main() -> None:
    project.set_up()
    from django.test import override_settings

    settings = project.cloudtask_settings(TRANSPORT=project.MEMORY)
    with override_settings(CLOUDTASK=settings):
        show()


def show() -> None:
    from django.core.management import call_command
    from django.db import connections
    from django.db.models import Value
    from django.db.models.functions import Mod

    from benchmarks.iteration import BenchmarkRow, filled, server_settings

    call_command("migrate", verbosity=0, run_syncdb=False)
    known = {"postgres": server_settings("postgres"), "default": {}}
    connections.settings["postgres"] = connections.configure_settings(known)["postgres"]
    rows = BenchmarkRow.objects.using("postgres")
    with filled("postgres", SPARSE, SPARSE):
        limit(connections["postgres"], TIMEOUT)
        found = rows.alias(rest=Mod("id", Value(SPARSE // MATCHES))).filter(rest=0)
        with measured(f"{MATCHES} of {SPARSE:,} rows, timeout of {TIMEOUT} s"):
            assert walk(found, None) == MATCHES
        limit(connections["postgres"], 0)
    with (
        filled("postgres", LARGE, LARGE),
        measured(f"{LARGE:,} rows in {SHARDS} shards"),
    ):
        assert walk(rows, SHARDS) == LARGE


def limit(connection: Any, seconds: int) -> None:
    with connection.cursor() as cursor:
        cursor.execute(f"SET statement_timeout = '{seconds}s'")


if __name__ == "__main__":
    main()
