"""Tells of a failure inside a chain: to its `on_failure`, and to its receipts."""

from __future__ import annotations

from dataclasses import dataclass, field

from cloudtask import clock, codec, failpoints
from cloudtask.chains import steps
from cloudtask.chains.handing import send, tell_result
from cloudtask.chains.rest import Rest, id_of, message_of
from cloudtask.codec import shapes, tags
from cloudtask.message import Message


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


def tell(message: Message, rest: Rest, error: str, traceback: str) -> None:
    """Send the call for failures of the chain of `message`, once for each failure.

    A failed task that is retried, and fails again, is another failure. Raises
    EnqueueUnavailable.
    """
    step, _ = steps.split_failure(rest.lines)
    if step is not None:
        place = message.place
        failure = Failure(rest.chain, place, message.task, message.id, error, traceback)
        key = id_of(rest.chain, place, "failed", message.sequence)
        made = message_of(
            step, key, step.given(codec.dumps(failure)), clock.now(), rest.carried
        )
        failpoints.reached("failure.before_send")
        send([made])
        failpoints.reached("failure.after_send")
    tell_result(rest, error, traceback)
