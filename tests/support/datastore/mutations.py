"""Mutations: the changes that a commit asks for, and what becomes of each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from grpc import StatusCode

from tests.support.datastore import protos
from tests.support.datastore.entities import Record, check_entity
from tests.support.datastore.errors import Refused, invalid, unimplemented
from tests.support.datastore.keys import (
    Key,
    Partition,
    read_key,
    require_complete,
    require_writable,
)
from tests.support.datastore.limits import Limits

# insert after these, and update after delete, make no sense on one entity.
FORBIDDEN = {
    ("insert", "insert"),
    ("update", "insert"),
    ("upsert", "insert"),
    ("delete", "update"),
}
FAIL = protos.Mutation.ConflictResolutionStrategy.FAIL


@dataclass(frozen=True)
class Change:
    verb: str
    key: Key
    entity: protos.Entity | None
    base: int | None  # the version that the caller expects
    fails_on_conflict: bool
    allocated: bool = False  # the server completed the key


def read_mutations(
    mutations: Sequence[protos.Mutation], home: Partition, limits: Limits
) -> list[Change]:
    if len(mutations) > limits.mutations:
        invalid(f"A commit has at most {limits.mutations} mutations.")
    return [_read_mutation(mutation, home, limits) for mutation in mutations]


def check_sequence(changes: Sequence[Change], *, transactional: bool) -> None:
    """Refuses mutations of one entity that do not go together."""
    last: dict[Key, str] = {}
    for change in changes:
        if not change.key.complete:
            continue
        before = last.get(change.key)
        if before and not transactional:
            invalid(f"A non-transactional commit changes {change.key} twice.")
        if (before, change.verb) in FORBIDDEN:
            invalid(f"{change.verb} must not follow {before} of {change.key}.")
        last[change.key] = change.verb


def is_conflict(change: Change, current: Record | None) -> bool:
    if change.base is None:
        return False
    return change.base != (current.version if current else 0)


def apply(change: Change, current: Record | None, version: int) -> Record:
    """The entity after `change`; refuses an insert or an update that comes wrong."""
    if change.verb == "insert" and current is not None:
        raise Refused(
            StatusCode.ALREADY_EXISTS, f"The entity {change.key} already exists."
        )
    if change.verb == "update" and current is None:
        raise Refused(StatusCode.NOT_FOUND, f"There is no entity {change.key}.")
    created = current.created if current else version
    return Record(change.key, change.entity, version, created)


def result_of(change: Change, record: Record) -> protos.MutationResult:
    result = protos.MutationResult(version=record.version)
    if change.allocated:
        result.key.CopyFrom(record.entity.key)
    if record.entity is not None:
        result.create_time.FromMicroseconds(record.created)
        result.update_time.FromMicroseconds(record.version)
    return result


def _read_mutation(
    mutation: protos.Mutation, home: Partition, limits: Limits
) -> Change:
    verb = mutation.WhichOneof("operation")
    if verb is None:
        invalid("A mutation has no operation.")
    if mutation.HasField("property_mask") or mutation.property_transforms:
        unimplemented("property masks and transforms")
    target = getattr(mutation, verb)
    entity = None if verb == "delete" else target
    key = read_key(target if entity is None else entity.key, home, limits)
    require_writable(key)
    if verb in ("update", "delete"):
        require_complete(key)
    if entity is not None:
        check_entity(entity, key, limits)
        entity = protos.Entity(key=key.message(), properties=entity.properties)
    return Change(verb, key, entity, _base(mutation), _fails_on_conflict(mutation))


def _base(mutation: protos.Mutation) -> int | None:
    strategy = mutation.WhichOneof("conflict_detection_strategy")
    if strategy == "base_version":
        return mutation.base_version
    if strategy == "update_time":
        return mutation.update_time.ToMicroseconds()
    return None


def _fails_on_conflict(mutation: protos.Mutation) -> bool:
    if mutation.conflict_resolution_strategy and _base(mutation) is None:
        invalid("A strategy for conflicts needs a base_version or an update_time.")
    return mutation.conflict_resolution_strategy == FAIL
