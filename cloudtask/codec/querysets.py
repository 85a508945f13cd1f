"""Querysets, always unevaluated, and `Prefetch` objects."""

from __future__ import annotations

from typing import Any

from django.contrib.contenttypes.prefetch import GenericPrefetch
from django.db.models import Model, Prefetch, QuerySet
from django.db.models import query as orm
from django.db.models.manager import BaseManager
from django.db.models.query import BaseIterable, RawQuerySet
from django.db.models.sql import Query

from cloudtask.codec.instances import label_of, model_of
from cloudtask.codec.nodes import pack_graph, unpack_graph
from cloudtask.codec.packing import Packing
from cloudtask.codec.refusals import Refusal
from cloudtask.codec.registry import Packer, decoders, families, packers
from cloudtask.codec.trust import path_of, resolve
from cloudtask.exceptions import PayloadError

_PLAIN = frozenset(vars(QuerySet()))


def _is_queryset(value: Any) -> bool:
    return isinstance(value, type) and issubclass(value, QuerySet)


def _is_iterable(value: Any) -> bool:
    return isinstance(value, type) and issubclass(value, BaseIterable)


def _pack_queryset(value: Any, packing: Packing) -> Any:
    packed: dict[str, Any] = {
        "model": label_of(value.model),
        "using": value._db,
        "query": _pack_query(value, packing),
    }
    if type(value) is not QuerySet:
        packed["class"] = path_of(type(value), _is_queryset, library=True)
    if value._iterable_class is not orm.ModelIterable:
        packed["rows"] = path_of(value._iterable_class, _is_iterable, library=True)
    for name in ("_fields", "_prefetch_related_lookups"):
        if getattr(value, name):
            packed[name] = packing.part(getattr(value, name), f".{name}")
    # What a custom queryset class keeps beside what Django keeps.
    own = {name: item for name, item in vars(value).items() if name not in _PLAIN}
    if own:
        packed["own"] = {n: packing.part(item, f".{n}") for n, item in own.items()}
    return {"$": ["queryset", packed]}


def _pack_query(value: Any, packing: Packing) -> Any:
    try:
        return pack_graph(value.query, packing)
    except Refusal as refusal:
        refusal.places.append(".query")
        raise


def _decode_queryset(payload: dict[str, Any]) -> Any:
    query = unpack_graph(payload["query"])
    if not isinstance(query, Query):
        raise PayloadError("The payload has a queryset whose query is none.")
    model: type[Model] = model_of(payload["model"])
    kind = QuerySet
    if "class" in payload:
        kind = resolve(payload["class"], _is_queryset, library=True)
    queryset: Any = object.__new__(kind)
    QuerySet.__init__(queryset, model, query, payload["using"])
    queryset._iterable_class = orm.ModelIterable
    if "rows" in payload:
        queryset._iterable_class = resolve(payload["rows"], _is_iterable, library=True)
    queryset._fields = payload.get("_fields")
    queryset._prefetch_related_lookups = payload.get("_prefetch_related_lookups", ())
    vars(queryset).update(payload.get("own", {}))
    return queryset


def _pack_prefetch(value: Any, packing: Packing) -> Any:
    querysets = getattr(value, "querysets", None)
    packed = [
        value.prefetch_through,
        value.prefetch_to,
        value.to_attr,
        packing.part(value.queryset, ".queryset"),
        packing.part(querysets, ".querysets"),
    ]
    return {"$": ["prefetch", packed]}


def _decode_prefetch(payload: Any) -> Prefetch[Any]:
    through, to, to_attr, queryset, querysets = payload
    kind = Prefetch if querysets is None else GenericPrefetch
    prefetch: Any = object.__new__(kind)
    prefetch.prefetch_through, prefetch.prefetch_to = through, to
    prefetch.to_attr, prefetch.queryset = to_attr, queryset
    if querysets is not None:
        prefetch.querysets = querysets
    return prefetch  # type: ignore[no-any-return]


def _refuse_manager(value: Any, packing: Packing) -> Any:
    raise Refusal(type(value), "Pass a queryset: its .all().")


def _refuse_raw(value: Any, packing: Packing) -> Any:
    raise Refusal(type(value), "Pass the SQL and its parameters, or a QuerySet.")


def _family(kind: type) -> Packer | None:
    if issubclass(kind, QuerySet):
        return _pack_queryset
    return _refuse_manager if issubclass(kind, BaseManager) else None


packers[Prefetch] = _pack_prefetch
packers[GenericPrefetch] = _pack_prefetch
packers[RawQuerySet] = _refuse_raw
decoders["queryset"] = _decode_queryset
decoders["prefetch"] = _decode_prefetch
families.append(_family)
