"""Entities: what may be stored, and which of it the indexes see."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

from tests.support.datastore import protos
from tests.support.datastore.errors import invalid
from tests.support.datastore.keys import RESERVED, Key
from tests.support.datastore.limits import Limits

KEY = "__key__"
SCATTER = "__scatter__"  # hidden; some entities have it, for samples of a kind
SCATTERED = 16  # one entity in so many; in the service one in about 128


@dataclass(frozen=True, slots=True)
class Record:
    """One version of an entity; the entity is None where it was deleted.

    Versions and times are one thing here: microseconds since 1970.
    """

    key: Key
    entity: protos.Entity | None
    version: int
    created: int

    def indexed(self, name: str) -> list[protos.Value]:
        """The values that an index of property `name` holds for this entity."""
        if name == KEY:
            return [protos.Value(key_value=self.entity.key)]
        if name == SCATTER:
            return list(_scatter(self.entity.key))
        return list(_indexed(self.entity, name))


def _scatter(key: protos.Key) -> Iterator[protos.Value]:
    """A value that depends on the key alone, for few keys."""
    digest = hashlib.sha256(key.SerializeToString(deterministic=True)).digest()
    if digest[0] < 256 // SCATTERED:
        yield protos.Value(blob_value=digest[1:])


def _indexed(entity: protos.Entity, name: str) -> Iterator[protos.Value]:
    if name in entity.properties:
        yield from _flattened(entity.properties[name])
    head, dot, tail = name.partition(".")
    if not dot or head not in entity.properties:
        return
    parent = entity.properties[head]
    if parent.HasField("entity_value") and not parent.exclude_from_indexes:
        yield from _indexed(parent.entity_value, tail)


def _flattened(value: protos.Value) -> Iterator[protos.Value]:
    if value.HasField("array_value"):
        for item in value.array_value.values:
            yield from _flattened(item)
    elif not value.exclude_from_indexes and not value.HasField("entity_value"):
        yield value


def check_entity(entity: protos.Entity, key: Key, limits: Limits) -> None:
    """Refuses what is too large, too deep or reserved; sizes are of the message."""
    size = entity.ByteSize()
    if size > limits.entity:
        invalid(f"The entity {key} has {size} bytes; at most {limits.entity} fit.")
    _check_properties(entity, limits, depth=0, indexed=True)


def _check_properties(
    entity: protos.Entity, limits: Limits, depth: int, *, indexed: bool
) -> None:
    if depth > limits.nesting:
        invalid(f"Entities are nested more than {limits.nesting} deep.")
    for name, value in entity.properties.items():
        if not name or len(name.encode()) > limits.name:
            invalid(f"A property's name has 1 to {limits.name} bytes, not {name!r}.")
        if RESERVED.fullmatch(name):
            invalid(f"The property name {name!r} is reserved.")
        _check_value(name, value, limits, depth, indexed=indexed)


def _check_value(
    name: str, value: protos.Value, limits: Limits, depth: int, *, indexed: bool
) -> None:
    indexed = indexed and not value.exclude_from_indexes
    kind = value.WhichOneof("value_type")
    if kind == "array_value":
        _check_items(name, value, limits, depth, indexed=indexed)
    elif kind == "entity_value":
        _check_properties(value.entity_value, limits, depth + 1, indexed=indexed)
    elif kind in ("string_value", "blob_value"):
        content = getattr(value, kind)
        size = len(content.encode() if isinstance(content, str) else content)
        most = limits.indexed_property if indexed else limits.property
        if size > most:
            invalid(f'The value of property "{name}" is longer than {most} bytes.')


def _check_items(
    name: str, value: protos.Value, limits: Limits, depth: int, *, indexed: bool
) -> None:
    for item in value.array_value.values:
        if item.HasField("array_value"):
            invalid(f'The property "{name}" has a list within a list.')
        _check_value(name, item, limits, depth, indexed=indexed)
