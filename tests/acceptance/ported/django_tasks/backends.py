"""Our backend in the two roles that Django's tests of tasks give to a backend."""

from __future__ import annotations

from typing import Any

from django.utils.functional import cached_property

from cloudtask.backend import CloudTasksBackend, backend_options
from cloudtask.backend.backend_options import BackendOptions
from cloudtask.models.results import TaskResultRow
from cloudtask.testing import run_queued
from cloudtask.transports import memory

# Django's tests expect that a backend has no OPTIONS, so they are set here.
OPTIONS = {
    "results": True,
    "transactional": False,  # both of Django's backends enqueue before the commit
    "max_attempts": 1,
    "priority_queues": {50: "{queue}-soon"},
}


class Waiting(CloudTasksBackend):
    """In the role of the dummy backend: tasks wait in the queue of a test."""

    @cached_property
    def settings(self) -> BackendOptions:
        return backend_options.read(self.alias, {**OPTIONS, **self.options})

    def clear(self) -> None:
        """Forget all tasks and results."""
        memory.queue().clear()
        TaskResultRow.objects.all().delete()


class Immediate(Waiting):
    """In the role of the immediate backend: each task is delivered at once."""

    def enqueue(self, task: Any, args: Any, kwargs: Any) -> Any:
        waiting = super().enqueue(task, args, kwargs)
        run_queued(errors="retry")
        return self.get_result(waiting.id)
