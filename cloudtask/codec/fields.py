"""Encodes values as the fields of models write them: those of other libraries' fields.

In a snapshot of an instance the field is known. For a value by itself a field of an
installed model is looked for that writes it, and reads an equal value back.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Mapping
from decimal import Decimal
from functools import lru_cache
from typing import Any
from uuid import UUID

from django.apps import apps
from django.core.exceptions import FieldDoesNotExist
from django.core.files import File
from django.db.models import Field, FileField, Model
from django.db.models.base import ModelState

from cloudtask.codec import shapes, tags
from cloudtask.codec.packing import (
    ATOMS,
    Packer,
    Packing,
    decoders,
    last_families,
    packer_for,
)
from cloudtask.codec.refusals import ADVICE, Refusal, unsupported
from cloudtask.codec.tags import MARK
from cloudtask.exceptions import PayloadError

_SCALARS = (
    *(type(None), bool, int, float, str, bytes, Decimal, UUID),
    *(dt.date, dt.datetime, dt.time, dt.timedelta),
)


def pack_field(
    field: Field[Any, Any], attributes: Mapping[str, Any], packing: Packing
) -> Any:
    """The value of `field` in the `attributes` of an instance; raises Refusal."""
    value, place = attributes[field.attname], f".{field.attname}"
    if isinstance(field, FileField) and isinstance(value, File):
        value = _file_name(value, place)
    kind: Any = type(value)
    is_known = kind in ATOMS or packer_for(kind) is not _pack_alone
    if not is_known and (prepared := _prepared(field, attributes)) is not None:
        return {MARK: [tags.PREPARED, packing.part(prepared, place)]}
    try:
        return packing.part(value, place)
    except Refusal:
        prepared = _prepared(field, attributes) if is_known else None
        # The same again, as of a JSONField: tried twice at each level of instances in
        # instances, the time would double with each.
        if prepared is None or prepared is value:
            raise
        return {MARK: [tags.PREPARED, packing.part(prepared, place)]}


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
        if not _is_plain(value):
            raise PayloadError("The payload has a field's value that no field writes.")
        self.value = value

    def read_by(self, field: Any) -> Any:
        """What `field` makes of it; raises PayloadError."""
        if takes_anything(field):
            raise PayloadError(f"The field {field} has no values of its own.")
        return field.to_python(self.value)


def _is_plain(value: Any) -> bool:
    """Whether `value` is what a database driver may give: `to_python` gets no other."""
    if type(value) in (list, tuple):
        return all(map(_is_plain, value))
    if type(value) is dict:
        return all(map(_is_plain, (*value, *value.values())))
    return type(value) in _SCALARS


def _prepared(field: Field[Any, Any], attributes: Mapping[str, Any]) -> Any:
    """The value as the field itself writes it, if the field reads the same again.

    None if it does not, and for a field that takes values of any type.
    """
    return None if takes_anything(field) else _written(field, attributes)


def _written(field: Field[Any, Any], attributes: Mapping[str, Any]) -> Any:
    """A field writes for the database. Ranges and geometries need the text of a
    fixture."""
    value = attributes[field.attname]
    writers = (
        field.get_prep_value,
        lambda value: field.value_to_string(_holder(field, attributes, value)),
    )
    for write in writers:
        try:
            written = write(value)
            again = _made(field, attributes, field.to_python(written))
            is_same = type(again) is type(value) and bool(again == value)
        except Exception:  # noqa: BLE001,S112  any failure of a foreign field means "no"
            continue
        if is_same and _is_plain(written):
            return written
    return None


def _made(field: Field[Any, Any], attributes: Mapping[str, Any], value: Any) -> Any:
    """The attribute of an instance with this value."""
    return getattr(_holder(field, attributes, value), field.attname)


def _holder(field: Field[Any, Any], attributes: Mapping[str, Any], value: Any) -> Model:
    """An instance with this value, which a descriptor may still convert.

    It has the other attributes too: an amount of money needs its currency.
    """
    holder: Model = object.__new__(field.model)
    vars(holder).update({**attributes, "_state": ModelState(), field.attname: value})
    return holder


class Stranger:
    """Of a type that no field can know."""

    def __eq__(self, other: object) -> bool:
        return type(other) is Stranger

    def __hash__(self) -> int:
        return 1


@lru_cache(maxsize=1024)
def takes_anything(field: Field[Any, Any]) -> bool:
    """Whether the field pickles what it gets, or the like: such a field must not read
    what a payload says."""
    return _written(field, {field.attname: Stranger()}) is not None


# Values by themselves.

_fields_of_kinds: dict[type, Field[Any, Any]] = {}


def _foreign_fields() -> Iterator[Field[Any, Any]]:
    """The fields of installed models that may have a type of values of their own."""
    for model in apps.get_models():
        yield from filter(_is_foreign, model._meta.concrete_fields)


def _is_foreign(field: Any) -> bool:
    # The value of a FileField belongs to an instance.
    if not isinstance(field, Field) or isinstance(field, FileField):
        return False
    is_djangos = type(field).__module__.startswith("django.db.models.")
    return not (is_djangos or field.is_relation)


def _pack_alone(value: Any, packing: Packing) -> Any:
    kind = type(value)
    known = _fields_of_kinds.get(kind)
    for field in (*((known,) if known else ()), *_foreign_fields()):
        written = _prepared(field, {field.attname: value})
        if written is not None:
            _fields_of_kinds[kind] = field
            name = [field.model._meta.label, field.name]
            return {MARK: [tags.OF_FIELD, [*name, packing.pack(written)]]}
    raise unsupported(kind)


def _decode_alone(content: Any) -> Any:
    *way, written = shapes.parts(content, 3)
    label, name = shapes.texts(way)
    try:
        found = apps.get_model(label)._meta.get_field(name)
    except (LookupError, ValueError, FieldDoesNotExist) as error:
        raise PayloadError(f"There is no field {label}.{name} any more.") from error
    if not _is_foreign(found):
        raise PayloadError(f"The field {label}.{name} has no values of its own.")
    return _made(found, {}, Prepared(written).read_by(found))


def _family(kind: type) -> Packer | None:
    return None if kind in ADVICE else _pack_alone


last_families.append(_family)
decoders[tags.PREPARED] = Prepared
decoders[tags.OF_FIELD] = _decode_alone
