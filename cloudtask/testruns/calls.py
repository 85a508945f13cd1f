"""What waits in the queue, as a test sees it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from cloudtask import codec, registry
from cloudtask.exceptions import TaskNotFound
from cloudtask.message import Message, Options
from cloudtask.stores import AlreadyDone, payloads
from cloudtask.testruns import commits
from cloudtask.transports import memory


@dataclass(frozen=True, slots=True)
class QueuedTask:
    """A call that waits in the queue, or for the commit of a transaction.

    `subject` is what a method is to be called on: a class, an instance, or the `Row`
    from which the instance will be loaded.
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
    """The messages that wait, in the order in which they would run, each with whether
    it waits for a commit; those do so last."""
    found = [(entry.message, False) for entry in memory.queue()]
    found += [(message, True) for message in commits.waiting()]
    return [one for one in found if wanted is None or wanted(one[0])]


def readable(found: Iterable[tuple[Message, bool]]) -> list[QueuedTask]:
    """The calls of `found`; a second delivery of what succeeded is none."""
    calls = []
    for message, awaits_commit in found:
        try:
            calls.append(call_of(message, awaits_commit=awaits_commit))
        except AlreadyDone:
            continue
    return calls


def call_of(message: Message, *, awaits_commit: bool = False) -> QueuedTask:
    """The call that `message` carries, decoded anew; raises AlreadyDone."""
    args, kwargs = codec.loads_call(payloads.payload_of(message))
    subject = None
    if args and _has_subject(message.task):
        subject, *rest = args
        args = tuple(rest)
    return QueuedTask(
        id=message.id,
        task=message.task,
        args=args,
        kwargs=kwargs,
        queue=message.queue,
        name=message.name,
        eta=datetime.fromtimestamp(message.eta, UTC) if message.eta else None,
        enqueued_at=datetime.fromtimestamp(message.created, UTC),
        options=message.options,
        subject=subject,
        awaits_commit=awaits_commit,
    )


def _has_subject(task: str) -> bool:
    try:
        return registry.find(task).has_subject
    except TaskNotFound:
        return False
