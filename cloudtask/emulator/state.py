"""Everything the emulator knows, and the clock and hooks that the verbs need."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Collection
from concurrent.futures import Future
from dataclasses import dataclass, field

from cloudtask.emulator import errors, names
from cloudtask.emulator.journal import Journal
from cloudtask.emulator.protos import Message
from cloudtask.emulator.queue import Queue
from cloudtask.emulator.queue_config import QueueConfig
from cloudtask.emulator.task import Dispatch, Task

DAY = 86_400.0


def _ignore(_: Queue) -> None:
    """Nobody listens."""


def _refuse(_: Queue, __: Dispatch, ___: int | None) -> Future[None]:
    raise RuntimeError("No dispatcher is attached.")


@dataclass
class State:
    """The queues with their tasks, and what the API remembers beside them.

    Whoever reads or changes it holds `lock`: calls come in threads of gRPC, dispatches
    in the event loop. Nothing waits while holding it.

    `task_tombstone` and `queue_tombstone` are seconds for which a name stays taken
    (proto comments on `CreateTaskRequest.task` and on DeleteQueue: up to 24 hours and
    up to 3 days). `projects`, when given, are the only ones that calls may name.
    """

    journal: Journal
    lock: threading.RLock = field(default_factory=threading.RLock)
    clock: Callable[[], float] = time.time
    rate_limits: bool = True
    task_tombstone: float = DAY
    queue_tombstone: float = 3 * DAY
    projects: Collection[str] | None = None
    queues: dict[str, Queue] = field(default_factory=dict)
    buried_queues: dict[str, float] = field(default_factory=dict)
    operations: dict[str, Message] = field(default_factory=dict)
    policies: dict[str, Message] = field(default_factory=dict)
    cmek_keys: dict[str, str] = field(default_factory=dict)
    on_change: Callable[[Queue], None] = _ignore
    """Called when a queue may have something to dispatch."""
    on_force: Callable[[Queue, Dispatch, int | None], Future[None]] = _refuse
    """Delivers RunTask's dispatch, to the given port if any; the result is its end."""

    def queue(self, name: str) -> Queue:
        """The queue; `ApiError` when the name is wrong or nothing has it."""
        queue = self.queues.get(name)
        if queue is not None:
            return queue
        self.check_project(names.parse_queue_name(name).project)
        raise errors.queue_not_found()

    def task(self, name: str) -> tuple[Queue, Task]:
        """A task and its queue; NOT_FOUND when it is gone or never was."""
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
        self.buried_queues.pop(name, None)
        self.journal.put_queue(queue)
        return queue

    def new_task_id(self) -> str:
        """An id like the service's own: about twenty digits."""
        return str(secrets.randbits(63) | 1 << 62)

    def drop_task(self, queue: Queue, task: Task) -> None:
        """Delete a task; its name stays taken for a while."""
        now = self.clock()
        queue.remove(task.id, now=now, remember=self.task_tombstone)
        self.journal.drop_task(queue, task.id)

    def drop_expired(self) -> None:
        """Delete the tasks that outlived the service's retention."""
        now = self.clock()
        for queue in self.queues.values():
            for task in queue.drop_expired(now):
                self.journal.drop_task(queue, task.id)

    def clear(self) -> None:
        """Forget everything, in the journal too."""
        for each in (
            self.queues,
            self.buried_queues,
            self.operations,
            self.policies,
            self.cmek_keys,
        ):
            each.clear()
        self.journal.clear()
