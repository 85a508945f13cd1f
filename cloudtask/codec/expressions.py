"""`Q`, expressions and model fields."""

from __future__ import annotations

from typing import Any

from django.apps import apps
from django.db.models import Field, ForeignObjectRel, Q

from cloudtask.codec.nodes import MACHINERY, NodePacking, is_machinery, pack_graph
from cloudtask.codec.packing import Packing
from cloudtask.codec.refusals import REGISTER, Refusal
from cloudtask.codec.registry import Packer, decoders, families
from cloudtask.codec.trust import path_of, resolve
from cloudtask.exceptions import PayloadError


def _pack_machinery(value: Any, packing: Packing) -> Any:
    if isinstance(packing, NodePacking):
        return packing.node(value)
    if type(value) is Q:
        return _pack_q(value, packing)
    if isinstance(value, Field) or not hasattr(value, "deconstruct"):
        return {"$": ["graph", pack_graph(value, packing)]}
    return _pack_expression(value, packing)


def _pack_q(value: Q, packing: Packing) -> Any:
    children = packing.items(value.children)
    return {"$": ["q", [value.connector, value.negated, children]]}


def _decode_q(payload: Any) -> Q:
    connector, negated, children = payload
    if connector not in (Q.AND, Q.OR, Q.XOR):
        raise PayloadError(f"The payload has a Q with the connector {connector!r}.")
    q: Q = Q.create(children, connector, negated)
    return q


def _pack_expression(value: Any, packing: Packing) -> Any:
    path = path_of(type(value), is_machinery, library=True)
    _, args, kwargs = value.deconstruct()
    return {"$": ["expression", [path, packing.items(args), packing.mapping(kwargs)]]}


def _decode_expression(payload: Any) -> Any:
    path, args, kwargs = payload
    kind = resolve(path, is_machinery, library=True)
    if issubclass(kind, Field) or not hasattr(kind, "deconstruct"):
        raise PayloadError(f"{path} is no expression.")
    return kind(*args, **kwargs)


def _pack_field(value: Any, packing: Packing) -> Any:
    """A model's own field arrives as that field; any other as a copy."""
    model = getattr(value, "model", None)
    if model is None:
        return _pack_machinery(value, packing)
    if _field(model._meta.label, value.name) is not value:
        raise Refusal(
            type(value), f"It is no field of {model._meta.label}; {REGISTER}."
        )
    return {"$": ["field", [model._meta.label, value.name]]}


def _field(label: str, name: str) -> Any:
    return apps.get_model(label)._meta.get_field(name)


def _pack_relation(value: Any, packing: Packing) -> Any:
    field = value.field
    label = field.model._meta.label
    if _field(label, field.name).remote_field is not value:
        raise Refusal(type(value), f"It is no relation of {label}; {REGISTER}.")
    return {"$": ["relation", [label, field.name]]}


def _decode_relation(payload: Any) -> Any:
    label, name = payload
    return _field(label, name).remote_field


def _family(kind: type) -> Packer | None:
    if issubclass(kind, Field):
        return _pack_field
    if issubclass(kind, ForeignObjectRel):
        return _pack_relation
    if issubclass(kind, MACHINERY):
        return _pack_machinery
    return None


decoders["q"] = _decode_q
decoders["expression"] = _decode_expression
decoders["field"] = lambda payload: _field(*payload)
decoders["relation"] = _decode_relation
families.append(_family)
