"""Finds the calls that wait: in the queue, or for a commit that a test never makes."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from django.db import connections

from cloudtask import callables, codec, deferred, registry
from cloudtask.exceptions import PayloadError, TaskNotFound
from cloudtask.message import Message
from cloudtask.options import Options
from cloudtask.registry import Definition
from cloudtask.sending import on_commit, payloads
from cloudtask.sending.on_commit import Commit, Entry
from cloudtask.sending.table import existing
from cloudtask.stores import AlreadyDone
from cloudtask.transports import memory

__tracebackhide__ = True  # pytest ends at the line of the test

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
    awaiting = uncommitted()  # first: it sends the calls of finished commits
    found = [(entry.message, False) for entry in memory.queue()]
    found += [(message, True) for message in awaiting]
    return [one for one in found if wanted is None or wanted(one[0])]


def untried() -> Snapshot:
    """Those of the messages that wait of which no delivery was tried."""
    awaiting = [(message, True) for message in uncommitted()]
    found = [
        (entry.message, False)
        for entry in memory.queue()
        if not entry.delivery.retries and entry.fault is None
    ]
    return found + awaiting


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


def entries() -> Iterator[Entry]:
    """Our on-commit entries that are still to be called, of all connections.

    In an asynchronous test those of the ORM belong to another thread. The entries of a
    savepoint that was rolled back are left out.
    """
    if not on_commit.commits:  # asked twice for each call
        return
    on_commit.look()
    found = sorted(on_commit.commits.items(), key=lambda pair: pair[1].alias)
    for connection, commit in found:
        yield from _of_test(connection, commit)


def _of_test(connection: Any, commit: Commit) -> Iterator[Entry]:
    hooks = connection.run_on_commit
    is_whole = commit.hooks is hooks  # no savepoint was rolled back
    there = set() if is_whole else {id(func) for _, func, *_ in hooks}
    test = _savepoint_of_test(connection)
    for entry in list(commit.entries):
        is_there = is_whole or id(entry) in there
        if is_there and entry.messages and test <= entry.savepoints:
            yield entry


def _savepoint_of_test(connection: Any) -> set[str]:
    """The savepoint in which every test of a TestCase runs, as a set.

    A call enqueued outside of it, in setUpTestData, belongs to no test: every test of
    the class would see it.
    """
    blocks = connection.atomic_blocks
    if len(blocks) > 1 and all(block._from_testcase for block in blocks[:2]):
        return set(connection.savepoint_ids[:1])
    return set()


def keys_of_no_test() -> set[str]:
    """The keys of the waiting messages that setUpTestData enqueued."""
    return {
        message.key
        for connection, commit in on_commit.commits.items()
        for entry in commit.entries
        if not _savepoint_of_test(connection) <= entry.savepoints
        for message in entry.messages
    }


def is_committed(entry: Entry) -> bool:
    """Whether the commit would have happened: only the test's own blocks are open."""
    blocks: list[Any] = connections[entry.commit.alias].atomic_blocks
    return bool(blocks) and all(block._from_testcase for block in blocks)


def uncommitted() -> list[Message]:
    """The messages of `entries`, in order, without those whose row was rolled back."""
    return [message for entry in entries() for message in _standing(entry)]


def _standing(entry: Entry) -> list[Message]:
    commit, messages = entry.commit, list(entry.messages)
    connection = connections[commit.alias]
    is_ours = on_commit.commits.get(connection) is commit  # not another thread's
    if entry.send is not None or not is_ours:
        return messages
    if commit.hooks is connection.run_on_commit and not commit.is_doubtful:
        return messages
    return existing(messages, commit.alias)


def send(entry: Entry) -> None:
    """Do, for one entry alone, what its commit would do."""
    if entry.send is None:
        entry.commit.send_rows([entry])
    else:
        entry.commit.send_small([entry])


def flush() -> None:
    """Do what the commits would do; a small call that can't be sent raises.

    The entries stay in Django's list, where `captureOnCommitCallbacks` counts them. An
    entry that was done does nothing when it is called again.
    """
    ready = list(entries())
    if not ready:
        return
    for commit in {id(entry.commit): entry.commit for entry in ready}.values():
        ours = [entry for entry in ready if entry.commit is commit]
        commit.send_rows(ours)
        for entry in ours:
            if entry.messages:
                send(entry)
