"""Holds the state of the emulator: queues, used names, finished batches, journal."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Collection
from concurrent.futures import Future
from dataclasses import dataclass, field

from cloudtask.emulator.protocol import Message, errors, names
from cloudtask.emulator.queues import Dispatch, Queue, QueueConfig, Task


class Journal:
    """Told of each change; this one keeps nothing, so the state ends with the process.

    One that keeps changes has `durable` True: when its `flush` returns, all changes
    reported so far survive a kill.
    """

    durable = False

    def put_queue(self, queue: Queue) -> None: ...
    def drop_queue(self, name: str, until: float) -> None: ...
    def purge_queue(self, queue: Queue) -> None: ...
    def put_task(self, queue: Queue, task: Task) -> None: ...
    def put_attempt(self, queue: Queue, task: Task) -> None: ...
    def drop_task(self, queue: Queue, task_id: str) -> None: ...
    def put_operation(self, operation: Message) -> None: ...
    def drop_operation(self, name: str) -> None: ...
    def clear(self) -> None: ...
    def flush(self) -> None: ...
    def close(self) -> None: ...


def _ignore(_: Queue) -> None:
    """Do nothing: no dispatcher listens yet."""


def _refuse(_: Queue, __: Dispatch, ___: int | None) -> Future[None]:
    raise RuntimeError("No dispatcher is attached.")


@dataclass
class State:
    """The queues with their tasks, and the other facts that the API remembers.

    Hold `lock` to read or change it: calls come in threads of gRPC, dispatches in the
    event loop. Nothing waits while holding it.

    `defaults` is the configuration of a queue for which the client sets nothing.
    `queue_tombstone` is how many seconds the name of a deleted queue stays taken (up
    to 3 days by the proto comment on DeleteQueue). If `projects` is given, calls may
    name no other project. With `plain_tokens`, tokens may go to any http:// URL.
    """

    journal: Journal
    lock: threading.RLock = field(default_factory=threading.RLock)
    clock: Callable[[], float] = time.time
    rate_limits: bool = True
    defaults: QueueConfig = field(default_factory=QueueConfig)
    queue_tombstone: float = 3 * 86_400.0
    projects: Collection[str] | None = None
    plain_tokens: bool = False
    queues: dict[str, Queue] = field(default_factory=dict)
    deleted_queues: dict[str, float] = field(default_factory=dict)
    operations: dict[str, Message] = field(default_factory=dict)
    on_change: Callable[[Queue], None] = _ignore
    """Called when a queue may have something to dispatch."""
    on_force: Callable[[Queue, Dispatch, int | None], Future[None]] = _refuse
    """Delivers RunTask's dispatch, to the given port if any; done when it has ended."""

    def queue(self, name: str) -> Queue:
        """The queue; `ApiError` when the name is wrong or no queue has it."""
        queue = self.queues.get(name)
        if queue is not None:
            return queue
        self.check_project(names.parse_queue_name(name).project)
        raise errors.queue_not_found()

    def task(self, name: str) -> tuple[Queue, Task]:
        """A task and its queue; `ApiError` NOT_FOUND when there is no such task."""
        queue_name, task_id = names.split_task_name(name)
        names.check_task_id(task_id)
        queue = self.queue(queue_name)
        task = queue.tasks.get(task_id)
        if task is None:
            raise errors.not_found()
        return queue, task

    def check_project(self, project: str) -> None:
        if self.projects is not None and project not in self.projects:
            raise errors.project_denied(project)

    def open_queue(self, name: str, config: QueueConfig) -> Queue:
        """Make a queue, without asking whether the name is free."""
        queue = Queue(name, config, now=self.clock(), rate_limits=self.rate_limits)
        self.queues[name] = queue
        self.deleted_queues.pop(name, None)
        self.journal.put_queue(queue)
        return queue

    def new_task_id(self) -> str:
        """An id like the service's own: about twenty digits."""
        return str(secrets.randbits(63) | 1 << 62)

    def drop_task(self, queue: Queue, task: Task) -> None:
        """Delete a task; its name stays taken for a while."""
        queue.remove(task.id, now=self.clock())
        self.journal.drop_task(queue, task.id)

    def drop_expired(self) -> None:
        """Delete the tasks that are older than the retention of their queue."""
        now = self.clock()
        for queue in self.queues.values():
            for task in queue.drop_expired(now):
                self.journal.drop_task(queue, task.id)

    def clear(self) -> None:
        """Forget everything, in the journal too."""
        for each in (self.queues, self.deleted_queues, self.operations):
            each.clear()
        self.journal.clear()
