"""What a test expects to be enqueued, and how far a call is from it."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from inspect import BoundArguments, Parameter
from typing import Any
from unittest.mock import ANY

from cloudtask import codec
from cloudtask.decorators import Deferrable, TaskWithOptions
from cloudtask.exceptions import PayloadError
from cloudtask.message import OPTION_NAMES, Options
from cloudtask.registry import Definition, Row
from cloudtask.testruns.calls import QueuedTask


class _Nothing:
    def __repr__(self) -> str:
        return "nothing"


NOTHING = _Nothing()
ETA_TOLERANCE = timedelta(seconds=5)
LISTED = 20  # calls that a failure shows


@dataclass(frozen=True, slots=True)
class Expectation:
    """A call as far as a test describes it: what is left out may be anything.

    `chosen` are the names of the options that matter.
    """

    definition: Definition
    options: Options
    chosen: tuple[str, ...]
    subject: tuple[Any, ...]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def is_met_by(self, call: QueuedTask) -> bool:
        return call.task == self.definition.path and not self.differences(call)

    def differences(self, call: QueuedTask) -> list[str]:
        """What keeps a call of the same task from being the expected one."""
        return [*self._other_arguments(call), *self._other_options(call)]

    def _other_arguments(self, call: QueuedTask) -> list[str]:
        signature = self.definition.signature
        has_subject = self.definition.has_subject
        subject = (self.subject or (ANY,)) if has_subject else ()
        # Bound here too, so that an argument that the task lacks is a TypeError.
        wanted = signature.bind_partial(*subject, *self.args, **self.kwargs)
        found = signature.bind(
            *((call.subject,) if has_subject else ()), *call.args, **call.kwargs
        )
        found.apply_defaults()
        there = _flat(found)
        return [
            f"{name}={there.get(name, NOTHING)!r} instead of {value!r}"
            for name, value in _flat(wanted).items()
            if name not in there or not same(value, there[name])
        ]

    def _other_options(self, call: QueuedTask) -> list[str]:
        other = [
            f"{name}={getattr(call.options, name)!r} instead of {value!r}"
            for name, value in self._chosen_options()
            if name not in ("countdown", "eta") and getattr(call.options, name) != value
        ]
        eta = self.options.eta
        if self.options.countdown is not None:
            eta = call.enqueued_at + self.options.countdown
        if eta is None or (call.eta and abs(call.eta - eta) <= ETA_TOLERANCE):
            return other
        return [*other, f"eta {call.eta} instead of {eta}"]

    def _chosen_options(self) -> list[tuple[str, Any]]:
        return [(name, getattr(self.options, name)) for name in self.chosen]

    def __str__(self) -> str:
        given = [repr(value) for value in self.args]
        given += [f"{name}={value!r}" for name, value in self.kwargs.items()]
        chosen = [f"{name}={value!r}" for name, value in self._chosen_options()]
        using = f".using({', '.join(chosen)})" if chosen else ""
        return f"{self.definition.path}{using}({', '.join(given)})"

    def listing(self, calls: Sequence[QueuedTask], where: str) -> str:
        """What is there instead, the nearest first."""
        if not calls:
            return f"Nothing {where}."
        nearest = sorted(calls, key=self._distance)
        lines = [f"  {self._line(call)}" for call in nearest[:LISTED]]
        if len(calls) > LISTED:
            lines.append(f"  ... and {len(calls) - LISTED} more")
        return f"What {where}:\n" + "\n".join(lines)

    def _distance(self, call: QueuedTask) -> tuple[int, float]:
        path = self.definition.path
        if call.task == path:
            return 0, len(self.differences(call))
        return 1, -difflib.SequenceMatcher(None, path, call.task).ratio()

    def _line(self, call: QueuedTask) -> str:
        if call.task != self.definition.path:
            return str(call)
        differences = self.differences(call)
        return f"{call}: {', '.join(differences)}" if differences else str(call)


def _flat(bound: BoundArguments) -> dict[str, Any]:
    """Each argument under a name of its own, those of *args and **kwargs too."""
    flat: dict[str, Any] = {}
    for name, value in bound.arguments.items():
        kind = bound.signature.parameters[name].kind
        if kind is Parameter.VAR_POSITIONAL:
            flat |= {f"{name}[{place}]": item for place, item in enumerate(value)}
        elif kind is Parameter.VAR_KEYWORD:
            flat |= value
        else:
            flat[name] = value
    return flat


def expected(
    task: Deferrable[Any, Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Expectation:
    """The expectation that `task`, with its options and subject, and arguments say."""
    definition, options, subject = task._parts()
    given = task.given if isinstance(task, TaskWithOptions) else ()
    chosen = tuple(name for name in OPTION_NAMES if name in given)
    return Expectation(definition, options, chosen, subject, args, kwargs)


def same(wanted: Any, found: Any) -> bool:
    """Whether a value that travelled is the wanted one.

    A row that is to be loaded is the same as its instance; querysets and the like, that
    equal only themselves, are the same if they are written alike.
    """
    if isinstance(found, Row) and isinstance(wanted, found.model):
        return bool(wanted.pk == found.pk)
    if wanted is found or bool(wanted == found):
        return True
    try:
        return codec.dumps(wanted) == codec.dumps(found)
    except (PayloadError, TypeError):
        return False
