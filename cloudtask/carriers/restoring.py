"""Restores what the carriers of the project have captured, around a call."""

from __future__ import annotations

from typing import Any

from cloudtask.carriers.capturing import loaded
from cloudtask.carriers.chosen import chosen
from cloudtask.carriers.protocols import Block, Values
from cloudtask.context import TaskContext
from cloudtask.exceptions import ConfigurationError


class restored:
    """Inside the block, the context in `text` is restored.

    Raises what a carrier raises, and ConfigurationError if the call carries context of
    a carrier that the settings do not name. A carrier can't suppress an error.
    """

    __slots__ = ("context", "entered", "text")

    def __init__(self, text: str, context: TaskContext) -> None:
        self.text, self.context = text, context
        self.entered: list[Block] = []

    def __enter__(self) -> None:
        carried, found = loaded(self.text), chosen()
        if unknown := sorted(carried.keys() - found.names):
            raise ConfigurationError(
                f"The call carries context of {', '.join(map(repr, unknown))}, and "
                "does not run without it: CLOUDTASK['CARRIERS'] has no carrier of that "
                "name. Keep a carrier until the calls that have its context are done."
            )
        for carrier in found.project:
            try:
                block = block_of(carrier, carried.get(carrier.name), self.context)
                block.__enter__()
            except BaseException as error:
                self._leave(error)
                raise
            self.entered.append(block)

    def __exit__(self, kind: object, error: BaseException | None, at: object) -> None:
        raised = self._leave(error)
        if raised is not None and raised is not error:
            raise raised

    def _leave(self, error: BaseException | None) -> BaseException | None:
        """Leave the blocks, the innermost first; returns the last error."""
        for block in reversed(self.entered):
            kind, trace = None, None
            if error is not None:
                kind, trace = type(error), error.__traceback__
            try:
                block.__exit__(kind, error, trace)
            except BaseException as raised:  # noqa: BLE001  the caller raises it
                error = raised
        self.entered.clear()
        return error


def block_of(carrier: Any, values: Values | None, context: TaskContext) -> Block:
    """The block that a carrier restores its values in; raises TypeError for another
    value, for example a coroutine."""
    block = carrier.restore(values, context)
    if hasattr(block, "__enter__") and hasattr(block, "__exit__"):
        made: Block = block
        return made
    if hasattr(block, "close"):
        block.close()
    raise TypeError(
        f"restore() of carrier {carrier.name!r} must return a context manager, not "
        f"{type(block).__name__}."
    )
