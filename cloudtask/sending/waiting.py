"""Shows what waits in the outboxes: counted, in pages, and by error."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.db.models import Count, Min, Q
from django.db.models.functions import Left

from cloudtask.clock import database_now
from cloudtask.sending import relay, table
from cloudtask.stores import Upkeep
from cloudtask.stores.database.fitting import converted, mend
from cloudtask.stores.database.paging import page_of
from cloudtask.stores.database.records import aware, aware_at
from cloudtask.stores.failed import BRIEF
from cloudtask.stores.pages import MOST, Page
from cloudtask.stores.transactions import delete_by_key, translated

LATE = timedelta(minutes=2)  # after which a due row tells that no relay runs


@dataclass(frozen=True, slots=True, kw_only=True)
class OutboxCounts:
    """The contents of a database's outbox, counted up to MOST rows in all.

    `late` is the time for which the oldest waiting row has been due.
    """

    alias: str
    waiting: int
    parked: int
    oldest: datetime | None
    oldest_parked: datetime | None
    late: timedelta | None

    @property
    def is_more(self) -> bool:
        return self.waiting + self.parked >= MOST


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitingRow:
    """A row of an outbox, without its envelope. `database` is the alias."""

    database: str
    key: str
    task: str
    queue: str
    state: str
    created_at: datetime
    due_at: datetime
    attempts: int
    error: str


@dataclass(frozen=True, slots=True)
class ErrorGroup:
    """Parked rows with the same error."""

    error: str
    number: int


_with_table: set[str] = set()


def aliases() -> list[str]:
    """The databases that have an outbox. A table that was there once is not looked for
    again."""
    found = relay.aliases()
    _with_table.update(a for a in found if a not in _with_table and _has_table(a))
    return [alias for alias in found if alias in _with_table]


def _has_table(alias: str) -> bool:
    return relay.has_outbox(alias)


def counts(alias: str) -> OutboxCounts:
    """Count the outbox of a database, in one query that a large table does not slow."""
    state = table.rows_of(alias).model.State
    # In the order of the index: the parked rows, then the waiting ones by age.
    rows = table.rows_of(alias).order_by("state", "created_at")
    bounded = rows.values("state", "created_at", "due_at")[:MOST]
    waits, rests = Q(state=state.WAITING), Q(state=state.PARKED)
    numbers = {
        "waiting": Count("state", filter=waits),
        "parked": Count("state", filter=rests),
    }
    times = {
        "oldest": Min("created_at", filter=waits),
        "oldest_parked": Min("created_at", filter=rests),
        "due": Min("due_at", filter=waits),
        "now": Min(database_now()),
    }
    found: dict[str, Any] = converted(
        lambda: bounded.aggregate(**numbers, **times),
        lambda: bounded.aggregate(**numbers) | dict.fromkeys(times),
    )
    due, now = found.pop("due"), found.pop("now")
    for column in ("oldest", "oldest_parked"):
        found[column] = aware_at(found[column], alias)
    late = now - due if due is not None and due < now else None
    return OutboxCounts(alias=alias, late=late, **found)


def tasks_in(alias: str, limit: int) -> Counter[str]:
    """The number of calls of each task among the first `limit` rows of an outbox, the
    parked ones first."""
    # Counted here: a GROUP BY would read all rows, and MySQL has no LIMIT in it.
    rows = table.rows_of(alias).order_by("state", "created_at")
    with translated("Looking into the outbox", alias):
        found: Any = converted(
            lambda: [*rows.values_list("task", flat=True)[:limit]], list
        )
    return Counter(task for task in found if isinstance(task, str))


def page(
    alias: str, *, parked: bool, after: str | None = None, limit: int
) -> Page[WaitingRow]:
    """Rows of an outbox, the oldest first. Raises ValueError for a wrong mark."""
    state = table.rows_of(alias).model.State
    rows = table.rows_of(alias).filter(state=state.PARKED if parked else state.WAITING)
    rows = rows.defer("envelope")
    with translated("Listing the outbox", alias):
        return page_of(
            rows, "created_at", mark=after, limit=limit, made=_row, ascending=True
        )


def _row(row: Any) -> WaitingRow:
    row.error = mend(row) or row.error
    return WaitingRow(
        database=row._state.db,
        key=row.key,
        task=row.task,
        queue=row.queue,
        state=row.state,
        created_at=aware(row.created_at, row),
        due_at=aware(row.due_at, row),
        attempts=row.attempts,
        error=row.error,
    )


def parked_by_error(alias: str, limit: int = 10) -> list[ErrorGroup]:
    """The most frequent errors of the oldest parked rows."""
    state = table.rows_of(alias).model.State
    oldest = table.rows_of(alias).filter(state=state.PARKED).order_by("created_at")
    rows = table.rows_of(alias).filter(pk__in=_keys(oldest))
    groups = rows.annotate(text=Left("error", BRIEF)).values("text").order_by()
    found: Any = groups.annotate(number=Count("pk")).order_by("-number", "text")
    return [
        ErrorGroup(one["text"], one["number"])
        for one in converted(lambda: [*found[:limit]], list)
        if isinstance(one["text"], str)
    ]


def _keys(rows: Any) -> list[str]:
    """A list, since MySQL allows no LIMIT in a subquery of IN."""
    return list(rows.values_list("pk", flat=True)[:500])


def release_like(alias: str, error: str) -> int:
    """Let relays try all parked rows whose error begins so; returns how many."""
    state = table.rows_of(alias).model.State
    rows = table.rows_of(alias).filter(state=state.PARKED, error__startswith=error)
    with translated("Releasing parked messages", alias):
        keys = list(rows.values_list("pk", flat=True)[:MOST])
    return sum(
        relay.release(alias, keys[start : start + 500])
        for start in range(0, len(keys), 500)
    )


def discard(alias: str, keys: Sequence[str]) -> int:
    """Delete parked rows for good; returns how many there were."""
    state = table.rows_of(alias).model.State
    rows = table.rows_of(alias).filter(state=state.PARKED)
    with translated("Discarding parked messages", alias):
        return delete_by_key(rows, keys)


def is_without_relay(late: timedelta | None, relay_ran: Upkeep | None) -> bool:
    """Whether a row is due for so long that no relay can be running."""
    if late is None or late < LATE:
        return False
    return relay_ran is None or relay_ran.age > LATE
