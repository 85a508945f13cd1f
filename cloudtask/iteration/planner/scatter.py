"""Quantiles of the keys that Datastore scatters.

Datastore gives a small, random share of all entities the hidden property `__scatter__`,
whose order is random, too: the first n by it are a sample of the kind. Its own bulk
readers, such as Apache Beam's, cut kinds by it.

Django reaches Datastore through django-gcloud-connectors.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cloudtask.iteration.planner.pieces import shards_for

if TYPE_CHECKING:
    from django.db.models import QuerySet

ENGINE = "gcloudc.db.backends.datastore"
OVERSAMPLING = 32  # keys a shard, as Beam's splitter takes
ENOUGH = 8  # keys a shard; fewer make the shards too uneven


def is_datastore(queryset: QuerySet[Any]) -> bool:
    """Whether the rows of `queryset` are entities of a Datastore."""
    from django.db import connections

    return bool(connections[queryset.db].settings_dict["ENGINE"] == ENGINE)


def cut(queryset: QuerySet[Any], shards: int | None) -> tuple[list[Any], int] | None:
    """Keys between shards, and how many entities there are; None where there is no
    Datastore, or its sample is too small. A filter is not looked at."""
    if not is_datastore(queryset):
        return None
    client, kind = _kind_of(queryset)
    total = _count(client, kind)
    wanted = shards or shards_for(total)
    query = client.query(order=["__scatter__"], **kind)
    query.keys_only()
    names = [one.key.id_or_name for one in query.fetch(limit=wanted * OVERSAMPLING)]
    if len(names) < wanted * ENOUGH:
        return None
    names.sort(key=_in_order)
    to_python = queryset.model._meta.pk.to_python
    places = [len(names) * n // wanted - 1 for n in range(1, wanted)]
    return [to_python(names[place]) for place in places], total


def _kind_of(queryset: QuerySet[Any]) -> tuple[Any, dict[str, Any]]:
    """The client that Django's connection has, and what names the kind to it."""
    from django.db import connections

    connection: Any = connections[queryset.db]
    connection.ensure_connection()
    kind = queryset.model._meta.concrete_model._meta.db_table
    return connection.connection._client, {
        "kind": kind,
        "namespace": connection.namespace,
    }


def _count(client: Any, kind: dict[str, Any]) -> int:
    counting = client.aggregation_query(client.query(**kind)).count(alias="all")
    return sum(int(one.value) for [one] in counting.fetch())


def _in_order(name: int | str) -> tuple[bool, int | bytes]:
    """Datastore's own order: ids before names, names by their bytes.

    https://cloud.google.com/datastore/docs/concepts/entities#value_type_ordering
    """
    return (False, name) if isinstance(name, int) else (True, name.encode())
