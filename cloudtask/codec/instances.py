"""Model instances and model classes.

An instance travels as a snapshot of its concrete fields, read from its `__dict__`: no
query, no deferred field loaded. It is made again without `__init__` and signals.
"""

from __future__ import annotations

from typing import Any

from django.apps import apps
from django.core.files import File
from django.db.models import Field, FileField, Model
from django.db.models.base import ModelBase, ModelState

from cloudtask.codec.packing import Packing
from cloudtask.codec.refusals import Refusal
from cloudtask.codec.registry import Packer, decoders, families
from cloudtask.exceptions import PayloadError


def label_of(model: type[Model]) -> str:
    """ "app.Model"; raises Refusal unless the app registry gives the same class."""
    label = model._meta.label
    try:
        known: Any = apps.get_model(label)
    except LookupError:
        known = None
    if known is not model:
        raise Refusal(ModelBase, f"{label} is no model of an installed app.")
    return label


def model_of(label: str) -> type[Model]:
    try:
        return apps.get_model(label)
    except (LookupError, ValueError) as error:
        raise PayloadError(f"There is no model {label!r} any more.") from error


def snapshot(value: Model, packing: Packing) -> list[Any]:
    """Model, database, whether it is unsaved, fields; then deferred names, if any."""
    fields: dict[str, Any] = {}
    deferred: list[str] = []
    attributes = value.__dict__
    for field in value._meta.concrete_fields:
        if field.attname in attributes:
            fields[field.attname] = _pack_field(
                field, attributes[field.attname], packing
            )
        else:
            deferred.append(field.attname)
    state = value._state
    packed = [label_of(type(value)), state.db, state.adding, fields]
    return [*packed, deferred] if deferred else packed


def _pack_field(field: Field[Any, Any], value: Any, packing: Packing) -> Any:
    place = f".{field.attname}"
    if isinstance(field, FileField) and isinstance(value, File):
        value = _file_name(value, place)
    try:
        return packing.part(value, place)
    except Refusal:
        prepared = _prepared(field, value)
        # The same again, as of a JSONField: tried twice at each level of instances in
        # instances, the time would double with each.
        if prepared is None or prepared is value:
            raise
        return {"$": ["prepared", packing.part(prepared, place)]}


def _file_name(file: Any, place: str) -> str | None:
    if file and not getattr(file, "_committed", False):
        refusal = Refusal(type(file), "It is not stored yet: save the instance first.")
        refusal.places.append(place)
        raise refusal
    name: str | None = file.name
    return name


class Prepared:
    """A field's value as its `get_prep_value` wrote it, for its `to_python`."""

    __slots__ = ("value",)

    def __init__(self, value: Any) -> None:
        self.value = value


def _prepared(field: Field[Any, Any], value: Any) -> Any:
    """What a custom field would write to the database, if it reads the same again."""
    try:
        prepared = field.get_prep_value(value)
        again = field.to_python(prepared)
    except Exception:  # noqa: BLE001  any failure of a foreign field means "no"
        return None
    return prepared if type(again) is type(value) and again == value else None


def restored(payload: list[Any]) -> Model:
    """The instance of a snapshot.

    A field that was removed since is dropped; one that was added takes its default.
    """
    label, db, adding, fields, *rest = payload
    deferred = rest[0] if rest else ()
    model = model_of(label)
    instance: Model = object.__new__(model)
    state = ModelState()
    state.db, state.adding = db, adding
    attributes = instance.__dict__  # past any __setattr__ that watches for changes
    attributes["_state"] = state
    for field in model._meta.concrete_fields:
        name = field.attname
        if name in fields:
            value = fields[name]
            is_prepared = type(value) is Prepared
            attributes[name] = field.to_python(value.value) if is_prepared else value
        elif name not in deferred:
            attributes[name] = field.get_default()
    return instance


def _pack_instance(value: Model, packing: Packing) -> Any:
    if packing.wipe_related_caches:
        return {"$": ["instance", snapshot(value, packing)]}
    from cloudtask.codec.related import pack_related

    return {"$": ["instances", pack_related(value, packing)]}


def _pack_model(value: type[Model], packing: Packing) -> Any:
    return {"$": ["model", label_of(value)]}


def _family(kind: type) -> Packer | None:
    if issubclass(kind, ModelBase):
        return _pack_model
    return _pack_instance if issubclass(kind, Model) else None


decoders["model"] = model_of
decoders["instance"] = restored
decoders["prepared"] = Prepared
families.insert(0, _family)  # a model may also be a dataclass, its class is a class
