"""Signatures: calls that wait for their turn in a chain or a group.

Type checkers see four kinds. A `Step` takes the value of the step before it. A `Start`
can come first. `f.s(...)` is a `Partial`, which is both, or a `Full`, which has all its
arguments. `f.si(...)` is an `Immutable`, which takes no value.
"""

from __future__ import annotations

from copy import copy
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from cloudtask import clock, codec
from cloudtask.chains.rest import message_of
from cloudtask.chains.steps import CallStep
from cloudtask.exceptions import EnqueueError, UnsupportedValue
from cloudtask.message import Carried
from cloudtask.options import Options
from cloudtask.registry import Definition, check_findable
from cloudtask.sending import limits
from cloudtask.workflows.familiar import LINKS, STARTS, Familiar

T_contra = TypeVar("T_contra", contravariant=True)
R_co = TypeVar("R_co", covariant=True)

_STARTED = (
    "a signature waits in a chain or a group: write chain({0!r}).defer(), or call "
    ".defer(...) of the task"
)
_LINKED = (
    "write chain({0!r}, ...), with on_failure= for errors, and give options to "
    ".using(...) of the task"
)

# A held key, a chosen name or a fixed moment would cut the chain when it is repeated.
_REFUSED = ("eta", "name", "unique", "transactional")


class Step(Generic[T_contra, R_co]):
    """A part of a chain that takes the value of the part before it."""

    if TYPE_CHECKING:

        def _take(self, value: T_contra) -> R_co: ...


class Start(Generic[R_co]):
    """A part that can come first in a chain, or be a member of a group."""

    if TYPE_CHECKING:

        def _give(self) -> R_co: ...


class Partial(Step[T_contra, R_co], Start[R_co]):
    """`f.s(...)` that lacks its first argument, or may lack it."""


class Full(Start[R_co]):
    """`f.s(...)` with all its arguments."""


class Immutable(Step[object, R_co], Start[R_co]):
    """`f.si(...)`, which takes no value from the step before it."""


class Signature(Familiar, Partial[Any, Any], Full[Any], Immutable[Any]):
    """One call that waits for its turn; frozen, since it may be used more than once."""

    __slots__ = ("args", "definition", "is_immutable", "kwargs", "options", "subject")

    _verbs = {
        **dict.fromkeys((*STARTS, "adefer", "defer"), _STARTED),
        **dict.fromkeys((*LINKS, "set"), _LINKED),
    }
    _when_called = _STARTED

    def __init__(
        self,
        definition: Definition,
        options: Options,
        subject: tuple[Any, ...],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        *,
        is_immutable: bool,
    ) -> None:
        self.definition = definition
        self.options = options
        self.subject = subject
        self.args = args
        self.kwargs = kwargs
        self.is_immutable = is_immutable

    def __repr__(self) -> str:
        kind = "si" if self.is_immutable else "s"  # arguments may be secrets
        return f"<{self.definition.path}.{kind}(...)>"

    def chosen(self, queue: str | None, database: str | None) -> Signature:
        """This call with these options, unless it has chosen others by `using()`."""
        given = {"queue": queue, "database": database}
        task = self.definition.options
        options = {
            name: value
            for name, value in given.items()
            if value and getattr(self.options, name) == getattr(task, name)
        }
        if not options:
            return self
        made = copy(self)
        made.options = self.options.updated(options)
        return made

    def step(self, where: str, *, is_given: bool) -> CallStep:
        """The step of a chain; `is_given` says whether a value comes before it.

        Raises TypeError if the function does not take the arguments, or the task has an
        option that no step can have. Raises UnsupportedValue or another EnqueueError
        for what can't be enqueued.
        """
        self._check_options(where)
        takes_value = is_given and not self.is_immutable
        self._check_arguments(where, takes_value)
        check_findable(self.definition)
        countdown = self.options.countdown
        try:
            step = CallStep(
                task=self.definition.path,
                queue=self.options.queue,
                wire=self.options.travelling,
                countdown=countdown.total_seconds() if countdown else 0.0,
                takes_value=takes_value,
                has_subject=bool(self.subject),
                call=self._encoded(),
            )
            # What the service would refuse is refused now, and not in mid-chain.
            now = clock.now()
            probe = message_of(step, self.definition.path, step.call, now, Carried())
            limits.check(replace(probe, options=self.options), now)
        except (EnqueueError, UnsupportedValue) as error:
            raise type(error)(f"{where}, {error}") from error
        return step

    def _encoded(self) -> bytes:
        return codec.dumps_call(
            (*self.subject, *self.args),
            self.kwargs,
            wipe_related_caches=self.options.wipe_related_caches,
            of=self.definition.path,
        )

    def _check_options(self, where: str) -> None:
        for name in _REFUSED:
            if getattr(self.options, name) not in (None, False):
                raise TypeError(
                    f"{where}, {self.definition.path}: a step of a chain or a group "
                    f"can't have the option {name!r}."
                )

    def _check_arguments(self, where: str, takes_value: bool) -> None:
        value = (None,) if takes_value else ()
        args = (*self.subject, *value, *self.args)
        try:
            self.definition.check_call(args, self.kwargs)
        except TypeError as error:
            hint = self._hint_at_value(where) if takes_value else ""
            raise TypeError(f"{where}, {error}{hint}") from None

    def _hint_at_value(self, where: str) -> str:
        """A hint if the call would be right without the value that comes first."""
        try:
            self.definition.check_call((*self.subject, *self.args), self.kwargs)
        except TypeError:
            return ""
        is_failure = where.endswith("on_failure")
        first = "Failure" if is_failure else "value of the step before"
        name = self.definition.path.rpartition(".")[2]
        return f" The {first} comes first; write `{name}.si(...)` to leave it out."
