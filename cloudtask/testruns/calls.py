"""The queued calls, as a test sees them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from cloudtask import callables, codec, deferred, registry
from cloudtask.exceptions import PayloadError, TaskNotFound
from cloudtask.message import Message
from cloudtask.options import Options
from cloudtask.registry import Definition
from cloudtask.sending import payloads
from cloudtask.stores import AlreadyDone
from cloudtask.testruns import commits
from cloudtask.transports import memory

DEFERRED = deferred.DEFER


@dataclass(frozen=True, slots=True)
class QueuedTask:
    """A call that waits in the queue, or for the commit of a transaction.

    `task` is the import path of a task, or of a callable given to `cloudtask.deferred`.
    `subject` is the object of a method: a class, an instance, or the `Subject` from
    which the instance will be loaded. `lead` is the value that the library puts before
    the arguments: a reference to the deferred callable, or the fields of a task of
    `django.tasks`.
    """

    id: str
    task: str
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    queue: str
    name: str
    eta: datetime | None
    enqueued_at: datetime
    options: Options
    subject: Any = None
    awaits_commit: bool = False
    lead: Any = field(default=None, repr=False)

    def __str__(self) -> str:
        given = [repr(value) for value in self.args]
        given += [f"{name}={value!r}" for name, value in self.kwargs.items()]
        subject = "" if self.subject is None else f" of {self.subject!r}"
        due = f", eta {self.eta:%Y-%m-%d %H:%M:%S} UTC" if self.eta else ""
        commit = ", awaits a commit" if self.awaits_commit else ""
        return (
            f"{self.task}({', '.join(given)}){subject} on {self.queue!r}{due}{commit}"
        )


Snapshot = list[tuple[Message, bool]]


def snapshot(wanted: Callable[[Message], bool] | None = None) -> Snapshot:
    """The messages that wait, in the order in which they would run.

    Each comes with a bool: whether it waits for a commit. Those that do come last.
    """
    uncommitted = commits.waiting()  # first: it sends the calls of finished commits
    found = [(entry.message, False) for entry in memory.queue()]
    found += [(message, True) for message in uncommitted]
    return [one for one in found if wanted is None or wanted(one[0])]


def readable(found: Iterable[tuple[Message, bool]]) -> list[QueuedTask]:
    """The calls of `found`, without second deliveries of calls that succeeded."""
    calls = []
    for message, awaits_commit in found:
        try:
            calls.append(call_of(message, awaits_commit=awaits_commit))
        except AlreadyDone:
            continue
    return calls


def call_of(message: Message, *, awaits_commit: bool = False) -> QueuedTask:
    """The call that `message` carries, newly decoded; raises AlreadyDone."""
    args, kwargs = codec.loads_call(payloads.payload_of(message))
    task, subject, lead = message.task, None, None
    if args and task == DEFERRED:
        lead, args = args[0], args[1:]
        task = callables.name_of(lead)
    elif args and _is_of_django(task):
        lead, args = args[0], args[1:]
    elif args and _has_subject(task):
        subject, args = args[0], args[1:]
    return QueuedTask(
        id=message.id,
        task=task,
        args=args,
        kwargs=kwargs,
        queue=message.queue,
        name=message.name,
        eta=datetime.fromtimestamp(message.eta, UTC) if message.eta else None,
        enqueued_at=datetime.fromtimestamp(message.created, UTC),
        options=message.options,
        subject=subject,
        awaits_commit=awaits_commit,
        lead=lead,
    )


def task_of(message: Message) -> str:
    """The value for `QueuedTask.task`, whether or not the payload still exists."""
    if message.task != DEFERRED:
        return message.task
    try:
        return call_of(message).task
    except (AlreadyDone, PayloadError):
        return message.task


def _has_subject(task: str) -> bool:
    definition = _definition(task)
    return definition is not None and definition.has_subject


def _is_of_django(task: str) -> bool:
    definition = _definition(task)
    # Looked up, not imported: a library of django.tasks need not be installed.
    running = sys.modules.get("cloudtask.backend.runner")
    if definition is None or running is None:
        return False
    return isinstance(definition.function, running.Runner)


def _definition(task: str) -> Definition | None:
    try:
        return registry.find(task)
    except TaskNotFound:
        return None
