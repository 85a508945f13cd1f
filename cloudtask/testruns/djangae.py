"""Provides the test mixin of djangae, for the queue in this process."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from django.db import connections

from cloudtask import signals
from cloudtask.context import TaskContext
from cloudtask.exceptions import PermanentTaskFailure
from cloudtask.sending.on_commit import Entry
from cloudtask.testruns import deliveries, queued_calls
from cloudtask.testruns.queue_run import EndlessTasks
from cloudtask.testruns.report import ReportedAttempt
from cloudtask.testruns.runners import run_queued
from cloudtask.transports import memory
from cloudtask.transports.memory import Waiting

if TYPE_CHECKING:
    from unittest import TestCase as Base
else:
    Base = object

__tracebackhide__ = True  # pytest ends at the line of the test

STATUS = 500  # the answer of the handler for a task that raised an error


class TaskFailedBehaviour:
    """The choices of `process_task_queues` for a task that fails."""

    DO_NOTHING = 0
    RETRY_TASK = 1
    RAISE_ERROR = 2


class TaskFailedError(Exception):
    """A task failed; `original_exception` is its error."""

    def __init__(
        self,
        task_name: str,
        status_code: int | None,
        original_exception: BaseException | None = None,
    ) -> None:
        self.task_name = task_name
        self.status_code = status_code
        self.original_exception = original_exception
        super().__init__(
            f"Task {task_name} failed with status {status_code}: {original_exception!r}"
        )


class TestCaseMixin(Base):
    """Runs queued tasks by hand; put it before the TestCase.

    Tasks that wait for the test's own transaction count as queued; those of an
    `atomic()` block that is still open do not.
    """

    __test__ = False  # tells pytest that this class is no test, despite its name
    max_task_retry_count = 100

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "__test__" not in vars(cls):
            cls.__test__ = True

    def setUp(self) -> None:
        super().setUp()
        self._blocks_of_test = _blocks()
        self.flush_task_queues()

    def process_task_queues(
        self,
        queue_name: str | None = None,
        failure_behaviour: int = TaskFailedBehaviour.RAISE_ERROR,
    ) -> None:
        """Run the queued tasks, and those that they enqueue, until none is left.

        Raises TaskFailedError at the first failure; with RETRY_TASK, when a task has
        failed `max_task_retry_count` times. A PermanentTaskFailure ends its task and
        does not count as a failure, because the service drops such a task.
        """
        with self._open_blocks_left_alone():
            if failure_behaviour == TaskFailedBehaviour.RETRY_TASK:
                self._retry(queue_name)
            elif failure_behaviour == TaskFailedBehaviour.DO_NOTHING:
                run_queued(queue=queue_name, errors="collect")
            else:
                _run_to_the_first_failure(queue_name)

    def flush_task_queues(self, queue_name: str | None = None) -> None:
        """Remove the queued tasks."""
        memory.queue().take([entry.message.id for entry in self._queued(queue_name)])

    def get_task_count(self, queue_name: str | None = None) -> int:
        """The number of queued tasks."""
        return len(self._queued(queue_name))

    def assertNumTasksEquals(self, num: int, queue_name: str | None = None) -> None:
        """Assert that `num` tasks are queued."""
        count = self.get_task_count(queue_name=queue_name)
        if count != num:
            raise self.failureException(f"{count} tasks are queued, not {num}.")

    def _queued(self, queue_name: str | None) -> list[Waiting]:
        with self._open_blocks_left_alone():
            queued_calls.flush()
        return [
            entry
            for entry in memory.queue()
            if queue_name in (None, entry.message.queue)
        ]

    def _retry(self, queue_name: str | None) -> None:
        """Run in rounds, so that a task that failed goes to the end of the queue."""
        failures: Counter[str] = Counter()
        while found := {e.message.id: e for e in self._queued(queue_name)}:
            report = run_queued(queue=queue_name, errors="collect", recursive=False)
            for ran in report.failed:
                if isinstance(ran.error, PermanentTaskFailure) or ran.row is not None:
                    continue  # the service would not try it again
                failures[ran.id] += 1
                if failures[ran.id] >= self.max_task_retry_count:
                    raise _failed(found[ran.id], ran) from ran.error
                memory.queue().put_back([_again(found[ran.id], ran)])

    @contextmanager
    def _open_blocks_left_alone(self) -> Iterator[None]:
        """Hide the calls that wait for the end of an open `atomic()` block."""
        hidden = [(entry, entry.messages) for entry in self._uncommitted()]
        for entry, _ in hidden:
            entry.messages = ()
        try:
            yield
        finally:
            for entry, messages in hidden:
                entry.messages = messages

    def _uncommitted(self) -> Iterator[Entry]:
        for connection in connections.all(initialized_only=True):
            before = self._blocks_of_test.get(connection.alias, ())
            opened = {*_stack(connection)} - {*before}
            for sids, entry, *_ in connection.run_on_commit:
                outermost_is_open = not before and connection.in_atomic_block
                if isinstance(entry, Entry) and (outermost_is_open or sids & opened):
                    yield entry


def _blocks() -> dict[str, list[Any]]:
    """The `atomic()` blocks that are open, by the alias of their database."""
    return {
        connection.alias: _stack(connection)
        for connection in connections.all(initialized_only=True)
    }


def _stack(connection: Any) -> list[Any]:
    """The savepoints of the open blocks; the outermost has none, and comes first."""
    return (
        ["outermost", *connection.savepoint_ids] if connection.in_atomic_block else []
    )


def _run_to_the_first_failure(queue_name: str | None) -> None:
    last: list[TaskContext] = []

    def note(context: TaskContext, **kwargs: Any) -> None:
        last[:] = [context]

    signals.task_started.connect(note)
    try:
        while True:
            try:
                run_queued(queue=queue_name)
                return
            except PermanentTaskFailure:
                continue  # the task is gone from the queue
    except EndlessTasks:
        raise
    except Exception as error:
        if not last:
            raise
        raise TaskFailedError(last[0].name, STATUS, error) from error
    finally:
        signals.task_started.disconnect(note)


def _failed(entry: Waiting, ran: ReportedAttempt) -> TaskFailedError:
    return TaskFailedError(entry.message.name, STATUS, ran.error)


def _again(entry: Waiting, ran: ReportedAttempt) -> Waiting:
    return entry.again(
        entry.due, deliveries.next_delivery(entry.delivery, entry.due, STATUS)
    )
