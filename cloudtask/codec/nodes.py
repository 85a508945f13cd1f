"""Objects of Django's query machinery, written out attribute by attribute.

A query is a graph of some dozen kinds of objects of `django.db.models`. They are not
pickled: a pickle can call what it names and change any object it can reach, whatever
list of classes it is held to. Here a payload can only ask for an instance of a class
that is part of the query machinery, with attributes that the codec itself has decoded.

What the attributes mean belongs to one release of Django, so its major.minor travels.
"""

from __future__ import annotations

from typing import Any

import django
from django.db.models import Field, Lookup
from django.db.models.expressions import BaseExpression, Combinable
from django.db.models.fields import NOT_PROVIDED
from django.db.models.query_utils import FilteredRelation
from django.db.models.sql import (
    DeleteQuery,
    InsertQuery,
    Query,
    UpdateQuery,
)
from django.db.models.sql.datastructures import BaseTable, Join
from django.db.models.sql.where import ExtraWhere, NothingNode
from django.utils.tree import Node

from cloudtask.codec.classes import verified_kinds
from cloudtask.codec.packing import Packing, as_bytes
from cloudtask.codec.parsing import parse, parser
from cloudtask.codec.refusals import Refusal
from cloudtask.codec.registry import decoders
from cloudtask.codec.trust import path_of, resolve
from cloudtask.exceptions import PayloadError

MACHINERY = (
    BaseExpression,
    Combinable,
    Node,
    Query,
    BaseTable,
    Join,
    NothingNode,
    ExtraWhere,
    FilteredRelation,
    Field,
)
# What would write to the database once a queryset runs it.
_WRITES = (DeleteQuery, InsertQuery, UpdateQuery)
# Results that are computed again when they are missing.
_RECOMPUTED = {"identity", "convert_value", "validators", "_get_default"}
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


class NodePacking(Packing):
    """Packs one graph; an object that is met again is written as its number."""

    __slots__ = ("met",)

    def __init__(self, outer: Packing) -> None:
        super().__init__(wipe_related_caches=True)  # a query has no use for them
        self.depth = outer.depth
        # The object itself is kept so that its id stays its own.
        self.met: dict[int, tuple[int, Any]] = {}

    def node(self, value: Any) -> Any:
        if id(value) in self.met:
            return {"$": ["met", self.met[id(value)][0]]}
        path = path_of(type(value), is_machinery, library=True)
        state = {
            name: self.part(item, f".{name}") for name, item in _state(value).items()
        }
        number = len(self.met)
        self.met[id(value)] = (number, value)
        return {"$": ["node", [number, path, state]]}


def _state(value: Any) -> dict[str, Any]:
    state = dict(value.__getstate__() or {})
    for name in _RECOMPUTED & state.keys():
        del state[name]
    if isinstance(value, Lookup):
        # Compares without them, unlike other expressions; they may hold an instance.
        state.pop("_constructor_args", None)
    if isinstance(value, Field):
        # Validation has no part in a query, and a default is often a function.
        state["_validators"] = []
        if callable(state.get("default")):
            state["default"] = NOT_PROVIDED
    return state


def pack_graph(value: Any, packing: Packing) -> Any:
    """An object of the query machinery with all that it refers to.

    The result is decoded once, so that what a worker would refuse is refused here.
    """
    graph = as_bytes(NodePacking(packing).pack(value)).decode("utf-8", "surrogatepass")
    try:
        unpack_graph([_VERSION, graph])
    except PayloadError as error:
        raise Refusal(type(value), str(error)) from error
    return [_VERSION, graph]


def unpack_graph(payload: Any) -> Any:
    version, graph = payload
    if version != _VERSION:
        raise PayloadError(
            f"The payload has a query of Django {version}; this is Django {_VERSION}, "
            "where queries look different inside. Enqueue it again."
        )
    met: dict[int, Any] = {}

    def node(payload: Any) -> Any:
        number, path, state = payload
        if type(state) is not dict:
            raise PayloadError("The payload has a query that is malformed.")
        met[number] = instance = _instance(path, state)
        return instance

    return parse(
        graph.encode("utf-8", "surrogatepass"),
        parser({"node": node, "met": met.__getitem__}),
    )


def _instance(path: str, state: dict[str, Any]) -> Any:
    kind = resolve(path, is_machinery, library=True)
    if kind is NOT_PROVIDED:
        raise PayloadError(f"{path} has no instances.")
    instance = object.__new__(kind)
    if hasattr(instance, "__setstate__"):
        instance.__setstate__(state)
    else:
        instance.__dict__.update(state)
    return instance


decoders["graph"] = unpack_graph
