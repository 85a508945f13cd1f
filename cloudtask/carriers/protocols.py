"""The two kinds of carriers, and the one that this library brings along."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

from django.utils import translation

from cloudtask.context import TaskContext

Values = Mapping[str, str]
Block = AbstractContextManager[Any]


class Carrier(Protocol):
    """Context of the project that travels with every call.

    An error of `capture()` is an error of `defer()`; one of `restore()`, or of the
    block that it returns, is an error of the attempt.
    """

    name: str

    def capture(self) -> Values | None:
        """The context to take along, as texts; None for nothing."""
        ...

    def restore(self, carried: Values | None, context: TaskContext) -> Block:
        """A context manager around the call. `carried` is None if nothing came."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Enqueueing:
    """One `defer()`, `defer_many()` or `iterate()` that is about to begin.

    `waits` tells that the messages are sent after a commit. `run` is the id of the
    iteration, if it is one.
    """

    task: str
    queue: str
    calls: int = 1
    waits: bool = False
    run: str | None = None


class Telemetry:
    """Base of carriers that only observe. Their errors are logged, and stop no call.

    The block of `restore()` is around the attempt and what follows from it. If entering
    it returns a function, that is called with the outcome and the error.
    """

    name = ""

    def capture(self) -> Values | None:
        """As a carrier's; it is called inside the block of `enqueueing()`."""
        return None

    def restore(self, carried: Values | None, context: TaskContext) -> Block:
        """As a carrier's."""
        return nullcontext()

    def following(self, carried: Values | None) -> Values | None:
        """Context for the next step of a run, which the running delivery makes."""
        return carried

    def enqueueing(self, what: Enqueueing) -> Block:
        """A context manager around the making of messages. If entering it returns a
        function, that is called with a list of the receipts."""
        return nullcontext()

    def sending(self, queue: str, carried: Sequence[Values | None]) -> Block:
        """A context manager around one request; `carried` has an item a message."""
        return nullcontext()

    def gauged(self, gauges: Mapping[str, Any]) -> None:
        """Counts of waiting work, fields of `cloudtask.gauges.Gauges`; relay only."""

    def noted(self, facts: Mapping[str, Any]) -> None:
        """Facts about the running step of an iteration: run, shard, leg, rows."""


class Language:
    """Calls run in the language that was active where they were enqueued."""

    name = "language"

    def capture(self) -> Values | None:
        code = translation.get_language()
        return None if code is None else {"code": code}

    def restore(self, carried: Values | None, context: TaskContext) -> Block:
        return translation.override(carried["code"]) if carried else nullcontext()
