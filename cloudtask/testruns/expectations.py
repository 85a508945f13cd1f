"""Compares queued calls with the call that a test expects."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from inspect import BoundArguments, Parameter
from typing import TYPE_CHECKING, Any, NamedTuple

from cloudtask import codec
from cloudtask.exceptions import PayloadError
from cloudtask.registry import Subject
from cloudtask.testruns.named import Named, named
from cloudtask.testruns.queued_calls import QueuedTask

if TYPE_CHECKING:
    from cloudtask.testruns.named import Nameable

__tracebackhide__ = True  # pytest ends at the line of the test


class _Nothing:
    def __repr__(self) -> str:
        return "nothing"


NOTHING = _Nothing()
ETA_TOLERANCE = timedelta(seconds=5)
LISTED = 20  # calls that a failure shows


@dataclass(frozen=True, slots=True)
class Expectation:
    """A call as far as a test describes it; arguments left out can have any value.

    An option matters only if `using()` chose it for the task that the test has named.
    """

    task: Named
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def is_met_by(self, call: QueuedTask) -> bool:
        return call.task == self.task.path and not self.differences(call)

    def differences(self, call: QueuedTask) -> list[str]:
        """The differences between a call of the same task and the expected one."""
        return [
            *self._other_subject(call),
            *self._other_arguments(call),
            *self._other_options(call),
        ]

    def _other_subject(self, call: QueuedTask) -> list[str]:
        other = [
            f"subject={call.subject!r} instead of {subject!r}"
            for subject in self.task.subject
            if not same(subject, call.subject)
        ]
        other += [
            f"{name}={call.lead[name]!r} instead of {value!r}"
            for name, value in self.task.fields.items()
            if call.lead[name] != value
        ]
        if self.task.form is not None and not same(self.task.form, call.lead):
            other.append(f"{call.lead!r} instead of {self.task.form!r}")
        return other

    def _other_arguments(self, call: QueuedTask) -> list[str]:
        signature = self.task.signature
        wanted = signature.bind_partial(*self.args, **self.kwargs)
        found = signature.bind(*call.args, **call.kwargs)
        found.apply_defaults()
        there = flat(found)
        return [
            f"{name}={there.get(name, NOTHING)!r} instead of {value!r}"
            for name, value in flat(wanted).items()
            if name not in there or not same(value, there[name])
        ]

    def _other_options(self, call: QueuedTask) -> list[str]:
        other = [
            f"{name}={getattr(call.options, name)!r} instead of {value!r}"
            for name, value in self._chosen_options()
            if name not in ("countdown", "eta") and getattr(call.options, name) != value
        ]
        eta, countdown = self.task.options.eta, self.task.options.countdown
        if countdown is not None:
            eta = call.enqueued_at + countdown
        if eta is None or (call.eta and abs(call.eta - eta) <= ETA_TOLERANCE):
            return other
        return [*other, f"eta {call.eta} instead of {eta}"]

    def _chosen_options(self) -> list[tuple[str, Any]]:
        return [(name, getattr(self.task.options, name)) for name in self.task.chosen]

    def __str__(self) -> str:
        given = [repr(value) for value in self.args]
        given += [f"{name}={value!r}" for name, value in self.kwargs.items()]
        options = (*self.task.fields.items(), *self._chosen_options())
        chosen = [f"{name}={value!r}" for name, value in options]
        using = f".using({', '.join(chosen)})" if chosen else ""
        return f"{self.task.path}{using}({', '.join(given)})"

    def listing(self, calls: Sequence[QueuedTask], where: Found) -> str:
        """The calls that exist instead, most similar first, with their differences."""
        return listed(sorted(calls, key=self._distance), where, self._line)

    def _distance(self, call: QueuedTask) -> tuple[int, float]:
        path = self.task.path
        if call.task == path:
            return 0, len(self.differences(call))
        return 1, -difflib.SequenceMatcher(None, path, call.task).ratio()

    def _line(self, call: QueuedTask) -> str:
        if call.task != self.task.path:
            return str(call)
        differences = self.differences(call)
        return f"{call}: {', '.join(differences)}" if differences else str(call)


class Found(NamedTuple):
    """How a message begins that lists the calls found in one place."""

    nothing: str
    these: str


def listed(
    calls: Sequence[QueuedTask], where: Found, line: Callable[[QueuedTask], str] = str
) -> str:
    """The first calls as text, a line each."""
    if not calls:
        return where.nothing
    lines = [f"  {line(call)}" for call in calls[:LISTED]]
    if len(calls) > LISTED:
        lines.append(f"  ... and {len(calls) - LISTED} more")
    return "\n".join([where.these, *lines])


def flat(bound: BoundArguments) -> dict[str, Any]:
    """Each argument under its own name, also those in *args and **kwargs."""
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
    task: Nameable, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Expectation:
    """The expectation for `task`, with its options and subject, and the arguments.

    Raises TypeError for arguments that no call of it can have.
    """
    found = named(task)
    found.check(args, kwargs)
    if found.is_json:
        args = tuple(_as_json(value) for value in args)
        kwargs = {name: _as_json(value) for name, value in kwargs.items()}
    return Expectation(found, args, kwargs)


def _as_json(value: Any) -> Any:
    """`value` as a task of `django.tasks` gets it: lists for tuples, and the like."""
    from cloudtask.backend.library import normalize_json

    try:
        return normalize_json(value)
    except (TypeError, ValueError):
        return value  # ANY, or a value that no call can have


def same(wanted: Any, found: Any) -> bool:
    """Whether a value from a payload equals the wanted one.

    A row that is still to be loaded equals its instance. Querysets and similar values,
    which compare by identity, are equal if they have the same encoding.
    """
    if isinstance(found, Subject) and isinstance(wanted, found.model):
        return bool(wanted.pk == found.pk)
    if wanted is found or bool(wanted == found):
        return True
    try:
        return codec.dumps(wanted) == codec.dumps(found)
    except (PayloadError, TypeError):
        return False
