"""Defines the failure of a step, and how the groups around it keep it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from cloudtask import codec, envelope
from cloudtask.codec import shapes, tags
from cloudtask.stores.groups import StoredMember, failure_place


@dataclass(frozen=True, slots=True)
class Failure:
    """A step of a chain that is kept as a failed task: what `on_failure` is given.

    `place` counts the steps of `chain` from 0. `id` is that of the failed task. `error`
    and `traceback` are texts.
    """

    chain: str
    place: int
    task: str
    id: str
    error: str = field(repr=False)
    traceback: str = field(repr=False)


def _decode(content: object) -> Failure:
    chain, place, *texts = shapes.parts(content, 6)
    task, key, error, traceback = shapes.texts(texts)
    return Failure(shapes.text(chain), shapes.whole(place), task, key, error, traceback)


codec.register(
    Failure,
    tags.FAILURE,
    encode=lambda one: [
        *(one.chain, one.place, one.task),
        *(one.id, one.error, one.traceback),
    ],
    decode=_decode,
)


# With the groups around a call

SHOWN = 2_000  # characters of a traceback: a group may have many failures


def sealed_failure(
    group: str, member: int, failure: Failure, key: str, inner: str
) -> bytes:
    """The failure of a member of `group`, as its record keeps it.

    `key` is that of the failed task. `inner` is the group inside the member that has
    failed, or empty.
    """
    brief = replace(failure, traceback=failure.traceback[-SHOWN:])
    data = codec.dumps([brief, key, inner])
    return envelope.seal_value(data, place=failure_place(group, member))


def failure_of(group: str, one: StoredMember) -> tuple[Failure, str, str]:
    """The reverse of `sealed_failure`; raises BadSignature."""
    place = failure_place(group, one.place)
    opened = codec.loads(envelope.unseal_value(one.value, place=place))
    failure, key, inner = shapes.parts(opened, 3)
    return failure, shapes.text(key), shapes.text(inner)
