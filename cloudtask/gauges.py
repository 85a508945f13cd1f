"""Counts what waits and what needs attention: outbox, failed tasks and iterations.

The relay reports it, at most once a minute: as one line of JSON in the log, for metrics
that are based on logs, and to telemetry. Cloud Monitoring knows the queues themselves.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from django.db.models import QuerySet

from cloudtask import carriers, conf
from cloudtask.clock import database_now
from cloudtask.exceptions import EnqueueUnavailable
from cloudtask.runs import RunState
from cloudtask.sending import relay, table
from cloudtask.stores import store
from cloudtask.stores.database.fitting import converted

EVERY = 60.0  # seconds between two reports of a process
MOST = 100_000  # rows that are counted
MOST_QUIET = 100

logger = logging.getLogger("cloudtask")
lines = logging.getLogger("cloudtask.gauges")


@dataclass(frozen=True, slots=True, kw_only=True)
class Gauges:
    """Counts over all outboxes and stores. Large numbers are not counted to the end.

    `outbox_age` is the age of the oldest waiting row in seconds. `runs` counts the runs
    that have not ended, and those that have failed, by their state. `runs_quiet` are
    those whose next step is lost, and `rows_failed` the rows of kept runs for which no
    other try is planned.
    """

    outbox_rows: int = 0
    outbox_age: float = 0.0
    outbox_parked: int = 0
    failed: int = 0
    runs_quiet: int = 0
    rows_failed: int = 0
    runs: Mapping[str, int] = field(default_factory=dict)


STATES = (
    RunState.WAITING,
    RunState.PLANNING,
    RunState.RUNNING,
    RunState.PAUSED,
    RunState.FINALIZING,
    RunState.FAILED,
)


def measured() -> Gauges:
    """The gauges as they are now; raises DatabaseError or EnqueueUnavailable."""
    aliases = [one for one in relay.aliases() if relay.has_outbox(one)]
    found = [_outbox(alias) for alias in aliases]
    counts = store().count_iterations(STATES)
    quiet = store().stale_runs(older_than=conf.settings().sweep_after, limit=MOST_QUIET)
    return Gauges(
        outbox_rows=sum(rows for rows, _, _ in found),
        outbox_age=max((age for _, age, _ in found), default=0.0),
        outbox_parked=sum(parked for _, _, parked in found),
        failed=store().count_failed(),
        runs_quiet=len(quiet),
        rows_failed=counts.failed_rows,
        runs={state.value: counts.runs[state] for state in STATES},
    )


def _outbox(alias: str) -> tuple[int, float, int]:
    """Waiting rows, the age of the oldest in seconds, and parked rows."""
    from cloudtask.models import OutboxMessage

    rows = table.rows_of(alias)
    waiting = rows.filter(state=OutboxMessage.State.WAITING)
    parked = rows.filter(state=OutboxMessage.State.PARKED)
    return _count(waiting), _age(waiting), _count(parked)


def _count(rows: QuerySet[Any]) -> int:
    return rows.order_by().values("pk")[:MOST].count()


def _age(rows: QuerySet[Any]) -> float:
    """The age of the oldest row in seconds, by the clock of its database."""
    dated = rows.order_by("created_at").annotate(now=database_now())
    found = converted(dated.values_list("created_at", "now").first, lambda: None)
    if found is None or None in found:
        return 0.0  # none, or a time that can't be read
    created, now = found
    return max(0.0, float((now - created).total_seconds()))


class _Reporting:
    """When this process reports next, on its monotonic clock."""

    def __init__(self) -> None:
        self.due = 0.0


reporting = _Reporting()


def report() -> None:
    """Report the gauges if a minute has passed; never raises an Exception."""
    now = time.monotonic()
    if now < reporting.due:
        return
    reporting.due = now + EVERY
    try:
        _tell(measured())
    except EnqueueUnavailable as error:
        logger.error("The gauges could not be measured. %s", error)
    except Exception:
        logger.exception("The gauges could not be measured.")


def _tell(gauges: Gauges) -> None:
    values = asdict(gauges)
    text = json.dumps({"cloudtask": values}, separators=(",", ":"))
    lines.info("%s", text, extra={"json_fields": {"cloudtask": values}})
    carriers.gauge(values)
