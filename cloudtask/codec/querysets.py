"""Querysets, always unevaluated, and `Prefetch` objects."""

from __future__ import annotations

from typing import Any

from django.contrib.contenttypes.prefetch import GenericPrefetch
from django.db.models import Model, Prefetch, QuerySet
from django.db.models import query as orm
from django.db.models.manager import BaseManager
from django.db.models.query import BaseIterable, RawQuerySet
from django.db.models.sql import Query

from cloudtask.codec import shapes, tags
from cloudtask.codec.expressions import pack_graph, unpack_graph
from cloudtask.codec.instances import label_of, model_of
from cloudtask.codec.packing import Packer, Packing, decoders, families, packers
from cloudtask.codec.refusals import REGISTER, Refusal
from cloudtask.codec.tags import MARK
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
    own = _own(value)
    if own:
        packed["own"] = packing.attributes(own)
    return {MARK: [tags.QUERYSET, packed]}


def _own(value: Any) -> dict[str, Any]:
    """The attributes that a custom queryset class adds to those of Django's."""
    own = {name: item for name, item in vars(value).items() if name not in _PLAIN}
    for name, item in own.items():
        if shapes.hides_method(type(value), name, item):
            raise Refusal(
                type(value), f"Its attribute {name!r} hides a method; {REGISTER}."
            )
    return own


def _pack_query(value: Any, packing: Packing) -> Any:
    try:
        return pack_graph(value.query, packing)
    except Refusal as refusal:
        refusal.places.append(".query")
        raise


def _decode_queryset(content: Any) -> Any:
    parts = shapes.named(content)
    query = unpack_graph(parts["query"])
    if not isinstance(query, Query):
        raise PayloadError("The payload has a queryset whose query is none.")
    model: type[Model] = model_of(parts["model"])
    kind = QuerySet
    if "class" in parts:
        kind = resolve(shapes.text(parts["class"]), _is_queryset, library=True)
    queryset: Any = object.__new__(kind)
    QuerySet.__init__(queryset, model, query, shapes.text_or_none(parts["using"]))
    queryset._iterable_class = orm.ModelIterable
    if "rows" in parts:
        rows = resolve(shapes.text(parts["rows"]), _is_iterable, library=True)
        queryset._iterable_class = rows
    queryset._fields = _tuple(parts.get("_fields"))
    lookups = _tuple(parts.get("_prefetch_related_lookups", ()))
    queryset._prefetch_related_lookups = lookups
    _set_own(queryset, parts.get("own", {}))
    return queryset


def _tuple(value: Any) -> tuple[Any, ...] | None:
    if value is not None and type(value) is not tuple:
        raise PayloadError("The payload has a queryset that is malformed.")
    return value


def _set_own(queryset: Any, content: Any) -> None:
    own = shapes.attributes(content, type(queryset))
    if not own.keys().isdisjoint(_PLAIN):
        raise PayloadError("The payload has a queryset that is malformed.")
    vars(queryset).update(own)


def _pack_prefetch(value: Any, packing: Packing) -> Any:
    querysets = getattr(value, "querysets", None)
    packed = [
        value.prefetch_through,
        value.prefetch_to,
        value.to_attr,
        packing.part(value.queryset, ".queryset"),
        packing.part(querysets, ".querysets"),
    ]
    return {MARK: [tags.PREFETCH, packed]}


def _decode_prefetch(content: Any) -> Prefetch[Any]:
    through, to, to_attr, queryset, querysets = shapes.parts(content, 5)
    others = [] if querysets is None else shapes.listed(querysets)
    for one in (queryset, *others):
        if not (one is None or isinstance(one, QuerySet)):
            raise PayloadError("The payload has a Prefetch of no queryset.")
    kind = Prefetch if querysets is None else GenericPrefetch
    prefetch: Any = object.__new__(kind)
    prefetch.prefetch_through = shapes.text(through)
    prefetch.prefetch_to = shapes.text(to)
    prefetch.to_attr = shapes.text_or_none(to_attr)
    prefetch.queryset = queryset
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
decoders[tags.QUERYSET] = _decode_queryset
decoders[tags.PREFETCH] = _decode_prefetch
families.append(_family)
