"""Quantiles of a sample of the table's pages, as PostgreSQL has them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cloudtask.iteration.planner.pieces import shards_for

if TYPE_CHECKING:
    from django.db.models import QuerySet

SAMPLED_PAGES = 1024  # about 8 MB, read in some 30 ms
SAMPLED_ROWS = 8192
UNKNOWN_DENSITY = 60.0  # rows a page of a table that was never analyzed
ENOUGH = 24  # sampled keys a shard; fewer make the shards too uneven


def cut(
    queryset: QuerySet[Any], shards: int | None, last: Any
) -> tuple[list[Any], int] | None:
    """Keys between shards and about how many rows there are up to `last`; None where
    there is no sample, or none that is large enough."""
    from django.db import connections

    connection = connections[queryset.db]
    meta = queryset.model._meta
    if connection.vendor != "postgresql" or len(meta.pk_fields) > 1 or meta.parents:
        return None
    size = size_of(connection, meta.db_table)
    if size is None:
        return None
    pages, density = size
    share = min(1.0, SAMPLED_PAGES / max(1, pages))
    # Rows of one page have neighbouring keys: a few of each say as much as all.
    thinning = min(1.0, SAMPLED_ROWS / max(1.0, pages * share * density))
    keys = _sample(queryset, connection, last, share, thinning)
    total = round(len(keys) / share / thinning)
    wanted = shards or shards_for(total)
    if len(keys) < wanted * ENOUGH:
        return None
    return [keys[len(keys) * n // wanted - 1] for n in range(1, wanted)], total


def size_of(connection: Any, table: str) -> tuple[int, float] | None:
    """Pages of the table, from the file system since statistics may be old, and about
    how many rows lie in one. None for a view, and for a table in partitions."""
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT pg_relation_size(oid) / current_setting('block_size')::bigint,"
            " CASE WHEN relpages > 0 AND reltuples > 0"
            " THEN reltuples / relpages ELSE %s END"
            " FROM pg_class WHERE oid = to_regclass(%s) AND relkind = 'r'",
            [UNKNOWN_DENSITY, connection.ops.quote_name(table)],
        )
        found = cursor.fetchone()
    return (int(found[0]), float(found[1])) if found else None


def _sample(
    queryset: QuerySet[Any],
    connection: Any,
    last: Any,
    share: float,
    thinning: float,
) -> list[Any]:
    """Keys up to `last` of a part of the rows in `share` of the pages, ordered by the
    database."""
    from django.db.models.expressions import RawSQL

    meta = queryset.model._meta
    quote = connection.ops.quote_name
    column, table = quote(meta.pk.column), quote(meta.db_table)
    sql = (
        f"SELECT {column} FROM {table}"  # noqa: S608  quoted names; values are parameters
        f" TABLESAMPLE SYSTEM (%s) WHERE random() < %s AND {column} <= %s"
    )
    values = [share * 100, thinning, meta.pk.get_db_prep_value(last, connection)]
    converters = [
        *connection.ops.get_db_converters(meta.pk.get_col(meta.db_table)),
        *meta.pk.get_db_converters(connection),
    ]
    if queryset.query.where or converters:
        chosen = queryset.filter(pk__in=RawSQL(sql, values)).order_by("pk")  # noqa: S611
        return list(chosen.values_list("pk", flat=True))
    with connection.cursor() as cursor:
        cursor.execute(f"{sql} ORDER BY {column}", values)
        return [meta.pk.to_python(key) for (key,) in cursor.fetchall()]
