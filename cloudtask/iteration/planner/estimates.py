"""Cuts from estimates: random UUIDs, a sample of pages, the keys that Datastore
scatters.

Each function returns keys between shards and about how many rows there are, or None if
it does not apply or its sample is too small.

* Random UUIDs are spread evenly, so equal widths make equal shards. Nothing about them
  is taken for granted: the first keys must lie evenly, in the order that is assumed;
  near each cut there must be a key; and the database orders the cuts.
* PostgreSQL reads a sample of the pages of a table. The queryset filters it.
* Datastore gives a small random share of all entities the hidden property
  `__scatter__`, whose order is random, too. The first n by it are a sample of the kind,
  by which its own bulk readers, such as Apache Beam's, cut kinds. Django reaches
  Datastore through django-gcloud-connectors.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from uuid import UUID

from cloudtask.iteration.planner.pieces import shards_for

if TYPE_CHECKING:
    from django.db.models import QuerySet

Cuts = tuple[list[Any], int]

# Random UUIDs
LEAST = 200  # keys from which the number of rows is estimated, to some 7 %
FARTHEST = 40  # mean gaps to the next key; random keys never leave so many free
_V4 = 0x4000_8000_0000_0000_0000  # version and variant of a random UUID

# A sample of PostgreSQL
SAMPLED_PAGES = 1024  # about 8 MB, read in some 30 ms
SAMPLED_ROWS = 8192
UNKNOWN_DENSITY = 60.0  # rows a page of a table that was never analyzed
ENOUGH_SAMPLED = 24  # keys a shard; fewer make the shards too uneven

# Datastore
ENGINE = "gcloudc.db.backends.datastore"
OVERSAMPLING = 32  # keys a shard, as Beam's splitter takes
ENOUGH_SCATTERED = 8  # keys a shard; fewer make the shards too uneven


# Random UUIDs


@dataclass(frozen=True, slots=True)
class Order:
    """An order of UUIDs: the place of a UUID in it, from 0 to 1, and the UUID at a
    place."""

    place_of: Callable[[UUID], float]
    at: Callable[[float], UUID]


PLAIN = Order(
    lambda key: key.int / 2**128,
    lambda place: UUID(int=int(place * 2**32) << 96 | _V4),
)
# MariaDB compares its own type, for random ones, from the last group to the first:
# https://mariadb.com/kb/en/uuid-data-type/
NODE_FIRST = Order(
    lambda key: key.node / 2**48,
    lambda place: UUID(int=_V4 | int(place * 2**48)),
)


def by_uuids(
    queryset: QuerySet[Any], shards: int | None, keys: Sequence[Any]
) -> Cuts | None:
    """Cuts at equal widths; None unless all keys are random UUIDs, as far as `keys`,
    which are the first ones, and a few others tell."""
    if not _is_whole_table_by_uuid(queryset) or len(keys) < LEAST:
        return None
    order = _order_of(queryset.db)
    places = [order.place_of(key) for key in keys]
    if places != sorted(places) or not all(map(_is_random, keys)):
        return None
    total = round(len(keys) / places[-1])
    wanted = shards or shards_for(total)
    if _has_time_ordered(queryset):
        return None
    found = [_near(queryset, order, n / wanted, total) for n in range(1, wanted)]
    if None in found:
        return None
    # The places were right by our idea of the order; the cuts are by the database's.
    ordered = queryset.filter(pk__in=found).order_by("pk")
    return list(ordered.values_list("pk", flat=True)), total


def _is_whole_table_by_uuid(queryset: QuerySet[Any]) -> bool:
    from django.db.models import UUIDField

    query = queryset.query
    is_filtered = query.where or query.group_by is not None or query.extra_tables
    return type(queryset.model._meta.pk) is UUIDField and not is_filtered


def _order_of(alias: str) -> Order:
    from django.db import connections

    connection = connections[alias]
    is_mariadb = connection.vendor == "mysql" and bool(
        connection.features.has_native_uuid_field
    )
    return NODE_FIRST if is_mariadb else PLAIN


def _is_random(key: UUID) -> bool:
    return key.version == 4


def _near(
    queryset: QuerySet[Any], order: Order, place: float, total: int
) -> UUID | None:
    """The first key behind `place`; None when it is too far for random keys."""
    start = order.at(place)
    above = queryset.filter(pk__gt=start).order_by("pk")
    key: UUID | None = above.values_list("pk", flat=True).first()
    if key is None or not _is_random(key):
        return None
    gap = order.place_of(key) - order.place_of(start)
    return key if 0 <= gap * total <= FARTHEST else None


def _has_time_ordered(queryset: QuerySet[Any]) -> bool:
    """Whether keys of today begin with their time. The nearest key below such a key of
    this moment is then not random."""
    today = UUID(int=int(time.time() * 1000) << 80 | 7 << 76 | 2 << 62)
    below = queryset.filter(pk__lte=today).order_by("-pk")
    key = below.values_list("pk", flat=True).first()
    return key is not None and not _is_random(key)


# A sample of PostgreSQL


def by_sample(queryset: QuerySet[Any], shards: int | None, last: Any) -> Cuts | None:
    """Cuts at the quantiles of a sample of the rows up to `last`."""
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
    # Rows of one page have neighboring keys: a few of each say as much as all.
    thinning = min(1.0, SAMPLED_ROWS / max(1.0, pages * share * density))
    keys = _sample(queryset, connection, last, share, thinning)
    total = round(len(keys) / share / thinning)
    wanted = shards or shards_for(total)
    if len(keys) < wanted * ENOUGH_SAMPLED:
        return None
    return [keys[len(keys) * n // wanted - 1] for n in range(1, wanted)], total


def size_of(connection: Any, table: str) -> tuple[int, float] | None:
    """The number of pages of a table, and about how many rows a page has. None for a
    view or a partitioned table. Statistics may be old, so the file system counts."""
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
    """Keys up to `last` of a part of the rows in `share` of the pages, in the order of
    the database."""
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


# Datastore


def is_datastore(queryset: QuerySet[Any]) -> bool:
    """Whether the rows of `queryset` are entities of a Datastore."""
    from django.db import connections

    return bool(connections[queryset.db].settings_dict["ENGINE"] == ENGINE)


def by_scatter(queryset: QuerySet[Any], shards: int | None) -> Cuts | None:
    """Cuts at the quantiles of Datastore's scattered keys. A filter is ignored."""
    if not is_datastore(queryset):
        return None
    client, kind = _kind_of(queryset)
    total = _count(client, kind)
    wanted = shards or shards_for(total)
    query = client.query(order=["__scatter__"], **kind)
    query.keys_only()
    names = [one.key.id_or_name for one in query.fetch(limit=wanted * OVERSAMPLING)]
    if len(names) < wanted * ENOUGH_SCATTERED:
        return None
    names.sort(key=_in_order)
    to_python = queryset.model._meta.pk.to_python
    places = [len(names) * n // wanted - 1 for n in range(1, wanted)]
    return [to_python(names[place]) for place in places], total


def _kind_of(queryset: QuerySet[Any]) -> tuple[Any, dict[str, Any]]:
    """The client of Django's connection, and the arguments that name the kind."""
    from django.db import connections

    connection: Any = connections[queryset.db]
    connection.ensure_connection()
    kind = queryset.model._meta.concrete_model._meta.db_table
    return connection.connection._client, {
        "kind": kind,
        "namespace": connection.namespace,
    }


def _count(client: Any, kind: dict[str, Any]) -> int:
    """The number of entities; the Datastore emulator can't count, so keys are read."""
    from google.api_core.exceptions import MethodNotImplemented

    query = client.query(**kind)
    try:
        counting = client.aggregation_query(query).count(alias="all")
        return sum(int(one.value) for [one] in counting.fetch())
    except MethodNotImplemented:
        query.keys_only()
        return sum(1 for _ in query.fetch())


def _in_order(name: int | str) -> tuple[bool, int | bytes]:
    """Datastore's own order: ids before names, names by their bytes.

    https://cloud.google.com/datastore/docs/concepts/entities#value_type_ordering
    """
    return (False, name) if isinstance(name, int) else (True, name.encode())
