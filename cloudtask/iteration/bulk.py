"""Opens many failed rows of a run again, as a task of the library."""

from __future__ import annotations

from cloudtask import registry
from cloudtask.iteration import control
from cloudtask.message import Enqueued
from cloudtask.options import Options
from cloudtask.registry import Definition
from cloudtask.sending import enqueueing

# The name rests in queues, so it follows from no place in the code.
RETRY_ROWS = "cloudtask.retry_rows"


def enqueue_retry(run_id: str) -> Enqueued:
    """Enqueue the retry of all failed rows of a run; raises EnqueueError."""
    definition = registry.find(RETRY_ROWS)
    return enqueueing.enqueue(definition, definition.options, (run_id,), {})


def _retry_rows(run_id: str) -> None:
    control.retry_failures(run_id)


registry.register(Definition(RETRY_ROWS, _retry_rows, Options()))
