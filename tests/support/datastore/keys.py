"""Keys: where an entity is, and the order of places."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from tests.support.datastore import protos
from tests.support.datastore.errors import invalid
from tests.support.datastore.limits import Limits

RESERVED = re.compile(r"__.*__", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Partition:
    project: str
    database: str
    namespace: str


class Element(NamedTuple):
    """A step of a path. Of one kind, ids come before names, as Datastore sorts them."""

    kind: str
    named: bool
    number: int
    name: str

    @property
    def complete(self) -> bool:
        return self.named or self.number != 0


@dataclass(frozen=True, slots=True)
class Key:
    partition: Partition
    path: tuple[Element, ...]

    @property
    def kind(self) -> str:
        return self.path[-1].kind

    @property
    def complete(self) -> bool:
        return self.path[-1].complete

    def completed(self, number: int) -> Key:
        last = self.path[-1]._replace(number=number)
        return replace(self, path=(*self.path[:-1], last))

    def is_within(self, ancestor: Key) -> bool:
        return (
            self.partition == ancestor.partition
            and self.path[: len(ancestor.path)] == ancestor.path
        )

    def message(self) -> protos.Key:
        message = protos.Key()
        message.partition_id.project_id = self.partition.project
        message.partition_id.database_id = self.partition.database
        message.partition_id.namespace_id = self.partition.namespace
        for element in self.path:
            step = message.path.add(kind=element.kind)
            if element.named:
                step.name = element.name
            elif element.number:
                step.id = element.number
        return message

    def __str__(self) -> str:
        return "/".join(
            f"{element.kind}:{element.name if element.named else element.number}"
            for element in self.path
        )


def read_key(message: protos.Key, home: Partition, limits: Limits) -> Key:
    """The key in `message`, whose last element may lack its id.

    `home` is the request's project and database; the namespace is the key's own.
    """
    if not message.path:
        invalid("A key's path must not be empty.")
    if len(message.path) > limits.path:
        invalid(f"A key's path has at most {limits.path} elements.")
    if message.ByteSize() > limits.key:
        invalid(f"A key is longer than {limits.key} bytes.")
    path = tuple(_read_element(step, limits) for step in message.path)
    if not all(element.complete for element in path[:-1]):
        invalid("Only the last element of a key's path may lack an id or a name.")
    return Key(read_partition(message.partition_id, home), path)


def read_partition(message: Any, home: Partition) -> Partition:
    if message.project_id not in ("", home.project):
        invalid(
            f"The key's project {message.project_id!r} is not the request's,"
            f" {home.project!r}."
        )
    if message.database_id != home.database:
        invalid(
            f"The key's database {message.database_id!r} is not the request's,"
            f" {home.database!r}."
        )
    return replace(home, namespace=message.namespace_id)


def require_complete(key: Key) -> Key:
    if not key.complete:
        invalid(f"The key {key} is incomplete.")
    return key


def require_writable(key: Key) -> Key:
    for element in key.path:
        for word in (element.kind, element.name):
            if RESERVED.fullmatch(word):
                invalid(f"{word!r} in the key {key} is reserved.")
    return key


def _read_element(step: Any, limits: Limits) -> Element:
    identity = step.WhichOneof("id_type")
    if not step.kind:
        invalid("A key has an element without a kind.")
    if identity == "id" and step.id == 0:
        invalid("An id of a key must not be zero.")
    if identity == "name" and not step.name:
        invalid("A name of a key must not be empty.")
    if max(len(step.kind.encode()), len(step.name.encode())) > limits.name:
        invalid(f"A kind or a name of a key is longer than {limits.name} bytes.")
    return Element(step.kind, identity == "name", step.id, step.name)
