"""Encodes `Q`, expressions, model fields, and the queries that they are part of.

`Q` and Django's own expressions travel as the call that makes them. All else is a graph
of some dozen kinds of objects of `django.db.models`, written attribute by attribute. A
payload can only ask for an instance of a class of the query machinery, with attributes
that the codec has decoded. It is not pickled: a pickle can call what it names.

The attributes are those of one release of Django, so its major.minor travels.
"""

from __future__ import annotations

from typing import Any, NoReturn

import django
from django.apps import apps
from django.db.models import (
    Exists,
    Field,
    ForeignObjectRel,
    Lookup,
    Q,
    QuerySet,
    Subquery,
)
from django.db.models.expressions import BaseExpression, Combinable
from django.db.models.fields import NOT_PROVIDED
from django.db.models.query_utils import FilteredRelation
from django.db.models.sql import DeleteQuery, InsertQuery, Query, UpdateQuery
from django.db.models.sql.datastructures import BaseTable, Join
from django.db.models.sql.where import ExtraWhere, NothingNode
from django.utils.tree import Node

from cloudtask.codec import shapes, tags
from cloudtask.codec.classes import verified_kinds
from cloudtask.codec.packing import (
    Decoder,
    Packer,
    Packing,
    as_bytes,
    decoders,
    families,
)
from cloudtask.codec.parsing import parse, parser
from cloudtask.codec.refusals import REGISTER, Refusal
from cloudtask.codec.tags import MARK
from cloudtask.codec.trust import path_of, resolve
from cloudtask.exceptions import PayloadError

MACHINERY = (
    *(BaseExpression, Combinable, Node, Query, BaseTable, Join),
    *(NothingNode, ExtraWhere, FilteredRelation, Field),
)
# What would write to the database once a queryset runs it.
_WRITES = (DeleteQuery, InsertQuery, UpdateQuery)
# Results that are computed again when they are missing.
_RECOMPUTED = {"identity", "convert_value", "validators", "_get_default"}
# Names what compiles a query: another compiler would make it write.
_COMPILER = "compiler"
_VERSION = ".".join(map(str, django.VERSION[:2]))


def is_machinery(value: Any) -> bool:
    """Whether `value` is a class that may be part of a query."""
    if value is NOT_PROVIDED:
        return True
    return (
        isinstance(value, type)
        and issubclass(value, MACHINERY)
        and not issubclass(value, _WRITES)
    )


verified_kinds.append(is_machinery)


def _pack_machinery(value: Any, packing: Packing) -> Any:
    if isinstance(packing, _GraphPacking):
        return packing.node(value)
    if type(value) is Q:
        return _pack_q(value, packing)
    if _is_made_by_call(type(value)):
        return _pack_expression(value, packing)
    return {MARK: [tags.GRAPH, pack_graph(value, packing)]}


# Q and expressions, by the call that makes them.


def _is_made_by_call(kind: type) -> bool:
    """Whether `kind` is an expression of Django, whose `__init__` only keeps what it
    gets. That of a project's own class may do anything, so it is not called."""
    is_djangos = kind.__module__.partition(".")[0] == "django"
    return is_djangos and hasattr(kind, "deconstruct") and not issubclass(kind, Field)


def _pack_q(value: Q, packing: Packing) -> Any:
    children = packing.items(value.children)
    return {MARK: [tags.Q, [value.connector, value.negated, children]]}


def _decode_q(content: Any) -> Q:
    connector, negated, children = shapes.parts(content, 3)
    if shapes.text(connector) not in (Q.AND, Q.OR, Q.XOR):
        raise PayloadError(f"The payload has a Q with the connector {connector!r}.")
    _refuse_callables(shapes.listed(children))
    q: Q = Q.create(children, connector, shapes.flag(negated))
    return q


def _pack_expression(value: Any, packing: Packing) -> Any:
    path = path_of(type(value), is_machinery, library=True)
    _, args, kwargs = value.deconstruct()
    packed = [path, packing.items(args), packing.mapping(kwargs)]
    try:
        _refuse_callables((args, kwargs))
    except PayloadError as error:
        raise Refusal(type(value), str(error)) from error
    return {MARK: [tags.EXPRESSION, packed]}


def _decode_expression(content: Any) -> Any:
    path, args, kwargs = shapes.parts(content, 3)
    kind = resolve(shapes.text(path), is_machinery, library=True)
    if not _is_made_by_call(kind):
        raise PayloadError(f"{path} is not an expression of Django.")
    _refuse_callables((shapes.listed(args), shapes.named(kwargs)))
    if issubclass(kind, Subquery | Exists):  # which clones whatever has a `query`
        _refuse_other_than_queries([*args[:1], *_given(kwargs, "queryset")])
    return kind(*args, **kwargs)


def _given(kwargs: dict[str, Any], name: str) -> list[Any]:
    return [kwargs[name]] if name in kwargs else []


def _refuse_other_than_queries(values: list[Any]) -> None:
    for value in values:
        if not isinstance(value, QuerySet | Query):
            raise PayloadError("The payload has a subquery of no queryset.")


def _refuse_callables(value: Any) -> None:
    """Refuse functions, classes and the like: expressions call some that they find."""
    if isinstance(value, dict):
        value = (*value, *value.values())
    if isinstance(value, list | tuple | set | frozenset):
        for one in value:
            _refuse_callables(one)
    elif callable(value):
        raise PayloadError("A function or class can't be part of an expression.")


# Model fields, and relations between models.

_INNER = "base_field"  # of ArrayField and the fields of ranges
MOST_INNER = 10


def _pack_field(value: Any, packing: Packing) -> Any:
    """A model's own field arrives as that field; any other as a copy.

    The field of the items of an array, or of the ends of a range, arrives as its own.
    """
    model = getattr(value, "model", None)
    if model is None:
        return _pack_machinery(value, packing)
    label = model._meta.label
    found, way = _field(label, value.name), [label, value.name]
    while found is not value:
        found = getattr(found, _INNER, None)
        way.append(_INNER)
        if found is None:
            raise Refusal(type(value), f"It is not a field of {label}; {REGISTER}.")
    return {MARK: [tags.FIELD, way]}


def _field(label: str, name: str) -> Any:
    return apps.get_model(label)._meta.get_field(name)


def _decode_field(content: Any) -> Any:
    label, name, *inner = shapes.texts(shapes.parts(content, 2, MOST_INNER))
    found = _field(label, name)
    for step in inner:
        found = getattr(found, _INNER, None)
        if step != _INNER or not isinstance(found, Field):
            raise PayloadError(f"{label}.{name} has no field of its items.")
    return found


def _pack_relation(value: Any, packing: Packing) -> Any:
    field = value.field
    label = field.model._meta.label
    if _field(label, field.name).remote_field is not value:
        raise Refusal(type(value), f"It is not a relation of {label}; {REGISTER}.")
    return {MARK: [tags.RELATION, [label, field.name]]}


def _decode_relation(content: Any) -> Any:
    return _decode_field(content).remote_field


# Graphs.


class _GraphPacking(Packing):
    """Packs one graph; an object that is met again is written as its number."""

    __slots__ = ("met",)

    def __init__(self, outer: Packing) -> None:
        super().__init__(wipe_related_caches=True)  # a query has no use for them
        self.depth = outer.depth
        # The object itself is kept so that its id stays its own.
        self.met: dict[int, tuple[int, Any]] = {}

    def node(self, value: Any) -> Any:
        if id(value) in self.met:
            return {MARK: [tags.MET, self.met[id(value)][0]]}
        path = path_of(type(value), is_machinery, library=True)
        state = self.attributes(_state(value))
        number = len(self.met)
        self.met[id(value)] = (number, value)
        return {MARK: [tags.NODE, [number, path, state]]}


def _state(value: Any) -> dict[str, Any]:
    if hasattr(value, "__setstate__"):
        raise Refusal(type(value), f"It has a __setstate__; {REGISTER}.")
    state = dict(value.__getstate__() or {})
    for name in _RECOMPUTED & state.keys():
        del state[name]
    if isinstance(value, Lookup):
        # Compares without them, unlike other expressions; they may hold an instance.
        state.pop("_constructor_args", None)
    if isinstance(value, Field):
        state.pop("context", None)  # a DecimalField computes it again
        # Validation has no part in a query, and a default is often a function.
        state["_validators"] = []
        if callable(state.get("default")):
            state["default"] = NOT_PROVIDED
    return state


def pack_graph(value: Any, packing: Packing) -> Any:
    """An object of the query machinery with all that it refers to.

    The result is decoded once, so that what a worker would refuse is refused here.
    """
    graph = as_bytes(_GraphPacking(packing).pack(value)).decode(
        "utf-8", "surrogatepass"
    )
    try:
        unpack_graph([_VERSION, graph])
    except PayloadError as error:
        raise Refusal(type(value), str(error)) from error
    return [_VERSION, graph]


def unpack_graph(content: Any) -> Any:
    """What `pack_graph` was given; raises PayloadError."""
    version, graph = shapes.texts(shapes.parts(content, 2))
    if version != _VERSION:
        raise PayloadError(
            f"The payload has a query of Django {version[:9]}; this is Django "
            f"{_VERSION}, where queries look different inside. Enqueue it again."
        )
    data = graph.encode("utf-8", "surrogatepass")
    return parse(data, parser(_graph_decoders()))


def _graph_decoders() -> dict[str, Decoder]:
    met: dict[int, Any] = {}

    def node(content: Any) -> Any:
        number, path, state = shapes.parts(content, 3)
        instance = _instance(shapes.text(path), state)
        met[shapes.whole(number)] = instance
        return instance

    return {
        tags.NODE: node,
        tags.MET: lambda number: met[shapes.whole(number)],
        tags.CLASS: _class_in_graph,
        tags.FUNCTION: _no_function,
        tags.TASK: _no_function,
    }


def _class_in_graph(content: Any) -> Any:
    return resolve(shapes.text(content), is_machinery, library=True)


def _no_function(content: Any) -> NoReturn:
    raise PayloadError("A function can't be part of a query.")


def _instance(path: str, state: Any) -> Any:
    kind = resolve(path, is_machinery, library=True)
    if kind is NOT_PROVIDED or hasattr(kind, "__setstate__"):
        raise PayloadError(f"{path} has no instances that travel.")
    attributes = shapes.attributes(state, kind)
    if issubclass(kind, Query) and _COMPILER in attributes:
        raise PayloadError("The payload has a query with a compiler of its own.")
    instance = object.__new__(kind)
    instance.__dict__.update(attributes)
    return instance


def _family(kind: type) -> Packer | None:
    if issubclass(kind, Field):
        return _pack_field
    if issubclass(kind, ForeignObjectRel):
        return _pack_relation
    return _pack_machinery if issubclass(kind, MACHINERY) else None


decoders[tags.Q] = _decode_q
decoders[tags.EXPRESSION] = _decode_expression
decoders[tags.FIELD] = _decode_field
decoders[tags.RELATION] = _decode_relation
decoders[tags.GRAPH] = unpack_graph
families.append(_family)
