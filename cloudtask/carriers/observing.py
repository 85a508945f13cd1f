"""Lets telemetry observe deliveries, the making of messages, and requests."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Self

from cloudtask.carriers.capturing import loaded
from cloudtask.carriers.chosen import state, telemetry, tried
from cloudtask.carriers.protocols import Block, Enqueueing, Telemetry
from cloudtask.carriers.restoring import block_of
from cloudtask.context import TaskContext
from cloudtask.message import Message


class Blocks:
    """The blocks of all telemetry as one. `method` is the one that makes them."""

    __slots__ = ("entered", "make", "method")

    def __init__(self, method: str, make: Callable[[Telemetry], Block]) -> None:
        self.method, self.make = method, make
        self.entered: list[tuple[Telemetry, Block, Any]] = []

    def __enter__(self) -> Self:
        for one in telemetry():
            tried(one, self.method, partial(self._enter, one))
        return self

    def _enter(self, one: Telemetry) -> None:
        block = self.make(one)
        self.entered.append((one, block, block.__enter__()))

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        for one, block, _ in reversed(self.entered):
            leave = partial(block.__exit__, kind, error, trace)
            tried(one, self.method, leave, passing=error)

    def tell(self, *values: Any) -> None:
        """Call the functions that entering the blocks has returned."""
        for one, _, function in self.entered:
            if callable(function):
                tried(one, self.method, partial(function, *values))


class observed(Blocks):
    """Inside the block, telemetry observes a delivery."""

    __slots__ = ()

    def __init__(self, message: Message, context: TaskContext) -> None:
        values = loaded(message.telemetry)
        super().__init__(
            "restore", lambda one: block_of(one, values.get(one.name), context)
        )

    def settled(self, outcome: Any, error: BaseException | None) -> None:
        """Let telemetry know how the delivery has ended."""
        self.tell(outcome, error)


def enqueueing(what: Enqueueing) -> Blocks:
    """Around the making of messages; `tell` is for their receipts."""
    return Blocks("enqueueing", lambda one: one.enqueueing(what))


def sending(messages: Sequence[Message]) -> Blocks:
    """Around a request that sends `messages`; see `Telemetry.sending`."""

    def make(one: Telemetry) -> Block:
        carried = [loaded(message.telemetry).get(one.name) for message in messages]
        return one.sending(messages[0].queue, carried)

    return Blocks("sending", make)


def gauge(gauges: Mapping[str, Any]) -> None:
    """Let telemetry know what waits."""
    for one in telemetry():
        tried(one, "gauged", partial(one.gauged, gauges))


def note(**facts: Any) -> None:
    """Let telemetry know facts about the running step of an iteration."""
    if not state.is_unobserved:
        for one in telemetry():
            tried(one, "noted", partial(one.noted, facts))
