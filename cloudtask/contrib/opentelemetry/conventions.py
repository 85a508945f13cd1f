"""Names of spans, attributes and metrics, and the schema that they follow."""

from __future__ import annotations

from typing import Any

SCHEMA = "https://opentelemetry.io/schemas/1.44.0"
SYSTEM_VALUE = "gcp_cloud_tasks"  # no convention lists Cloud Tasks; after "gcp_pubsub"

# Attributes, by the conventions.
SYSTEM = "messaging.system"
OPERATION = "messaging.operation.name"
OPERATION_TYPE = "messaging.operation.type"
DESTINATION = "messaging.destination.name"
MESSAGE_ID = "messaging.message.id"
BATCH = "messaging.batch.message_count"
ERROR_TYPE = "error.type"
# Attributes of our own.
TASK = "cloudtask.task"
ATTEMPT = "cloudtask.attempt"
MAX_ATTEMPTS = "cloudtask.max_attempts"
OUTCOME = "cloudtask.outcome"
FACTS = {
    "run": "cloudtask.run.id",
    "task": "cloudtask.run.task",
    "shard": "cloudtask.shard",
    "leg": "cloudtask.leg",
    "rows": "cloudtask.rows",
}

# Metrics.
SENT = "messaging.client.sent.messages"
CONSUMED = "messaging.client.consumed.messages"
OPERATION_DURATION = "messaging.client.operation.duration"
PROCESS_DURATION = "messaging.process.duration"
WAIT = "cloudtask.task.wait"
# By the fields of `cloudtask.gauges.Gauges`.
GAUGES = {
    "outbox_rows": ("cloudtask.outbox.rows", "{row}"),
    "outbox_age": ("cloudtask.outbox.age", "s"),
    "outbox_parked": ("cloudtask.outbox.parked", "{row}"),
    "failed": ("cloudtask.failed", "{task}"),
    "rows_failed": ("cloudtask.rows.failed", "{row}"),
    "runs": ("cloudtask.runs", "{run}"),
    "runs_quiet": ("cloudtask.runs.quiet", "{run}"),
}
STATE = "cloudtask.run.state"
BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10)
WAIT_BUCKETS = (0.05, 0.1, 0.5, 1, 5, 15, 60, 300, 900, 1800)


def messaging(operation: str, queue: str) -> dict[str, Any]:
    """The attributes that the conventions ask of every operation."""
    return {
        SYSTEM: SYSTEM_VALUE,
        OPERATION: operation,
        OPERATION_TYPE: operation,
        DESTINATION: queue,
    }


def type_of(error: BaseException | None) -> dict[str, str]:
    """The attribute with the import path of the error's class; none without one."""
    if error is None:
        return {}
    kind = type(error)
    is_builtin = kind.__module__ == "builtins"
    name = kind.__qualname__ if is_builtin else f"{kind.__module__}.{kind.__qualname__}"
    return {ERROR_TYPE: name}
