"""The rows that iterations change, and the loop without a library."""

from __future__ import annotations

from collections.abc import Sequence

from django.db import connection, transaction
from django.db.models import F, Sum

from benchmarks.site import CHUNK
from benchmarks.site.models import Row

_NUMBERS = {
    "sqlite": "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n"
    " WHERE i < {rows}) SELECT i, 0 FROM n",
    "postgresql": "SELECT i, 0 FROM generate_series(1, {rows}) AS i",
    "mysql": "SELECT seq, 0 FROM seq_1_to_{rows}",
}


# Rows that were only deleted would still take room, and time of the next walk.
_EMPTY = {
    "sqlite": "DELETE FROM",
    "postgresql": "TRUNCATE TABLE",
    "mysql": "TRUNCATE TABLE",
}


def fill(rows: int) -> None:
    """Replace all rows, by statements of the server itself."""
    table = Row._meta.db_table
    numbers = _NUMBERS[connection.vendor].format(rows=rows)
    with connection.cursor() as cursor:
        cursor.execute(f"{_EMPTY[connection.vendor]} {table}")
        cursor.execute(f"INSERT INTO {table} (id, size) {numbers}")
        if connection.vendor == "postgresql":
            cursor.execute(f"ANALYZE {table}")


def change(row: Row) -> None:
    Row.objects.filter(pk=row.pk).update(size=F("size") + 1)


def change_together(keys: Sequence[int]) -> None:
    Row.objects.filter(pk__in=keys).update(size=F("size") + 1)


def changes() -> int:
    """How many UPDATEs there were in all."""
    return Row.objects.aggregate(Sum("size"))["size__sum"] or 0


def bare_loop() -> None:
    """One process, a page of keys at a time, a transaction for each page."""
    last = 0
    while True:
        with transaction.atomic():
            page = list(Row.objects.filter(pk__gt=last).order_by("pk")[:CHUNK])
            for row in page:
                change(row)
        if not page:
            return
        last = page[-1].pk
