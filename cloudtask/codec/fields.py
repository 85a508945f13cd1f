"""Encodes the values of fields in snapshots of model instances.

A value that the codec does not know travels as its field would write it.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from decimal import Decimal
from typing import Any
from uuid import UUID

from django.core.files import File
from django.db.models import Field, FileField, Model
from django.db.models.base import ModelState

from cloudtask.codec import tags
from cloudtask.codec.packing import Packing, decoders
from cloudtask.codec.refusals import Refusal
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
    try:
        return packing.part(value, place)
    except Refusal:
        prepared = _prepared(field, attributes)
        # The same again, as of a JSONField: tried twice at each level of instances in
        # instances, the time would double with each.
        if prepared is None or prepared is value or not _is_plain(prepared):
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


def _is_plain(value: Any) -> bool:
    """Whether `value` is what a database driver may give: `to_python` gets no other."""
    if type(value) in (list, tuple):
        return all(map(_is_plain, value))
    if type(value) is dict:
        return all(map(_is_plain, (*value, *value.values())))
    return type(value) in _SCALARS


def _prepared(field: Field[Any, Any], attributes: Mapping[str, Any]) -> Any:
    """The value as the field itself writes it, if the field reads the same again.

    A field writes for the database. Ranges and geometries need the text of a fixture.
    """
    value = attributes[field.attname]
    writers = (
        field.get_prep_value,
        lambda value: field.value_to_string(_holder(field, attributes, value)),
    )
    for write in writers:
        try:
            written = write(value)
            holder = _holder(field, attributes, field.to_python(written))
            again = getattr(holder, field.attname)
            is_same = type(again) is type(value) and bool(again == value)
        except Exception:  # noqa: BLE001,S112  any failure of a foreign field means "no"
            continue
        if is_same and _is_plain(written):
            return written
    return None


def _holder(field: Field[Any, Any], attributes: Mapping[str, Any], value: Any) -> Model:
    """An instance with this value, which a descriptor may still convert.

    It has the other attributes too: an amount of money needs its currency.
    """
    holder: Model = object.__new__(field.model)
    vars(holder).update({**attributes, "_state": ModelState(), field.attname: value})
    return holder


decoders[tags.PREPARED] = Prepared
