"""What the headers of a dispatch say.

Names and meaning: https://cloud.google.com/tasks/docs/creating-http-target-tasks and
.../creating-appengine-handlers, "Reading request headers".
"""

from __future__ import annotations

from collections.abc import Mapping

from cloudtask.message import Delivery

PREFIXES = ("X-CloudTasks-", "X-AppEngine-")


def delivery_of(headers: Mapping[str, str]) -> Delivery:
    """The delivery that `headers`, a case-insensitive mapping, describe."""
    return Delivery(
        retries=_whole(headers, "TaskRetryCount") or 0,
        executions=_whole(headers, "TaskExecutionCount") or 0,
        eta=_seconds(headers, "TaskETA"),
        previous_response=_whole(headers, "TaskPreviousResponse"),
        retry_reason=header(headers, "TaskRetryReason"),
    )


def header(headers: Mapping[str, str], name: str) -> str | None:
    """The value of X-CloudTasks-<name> or X-AppEngine-<name>."""
    for prefix in PREFIXES:
        value = headers.get(prefix + name)
        if value:
            return value
    return None


def _whole(headers: Mapping[str, str], name: str) -> int | None:
    text = header(headers, name)
    return int(text) if text is not None and text.isdecimal() else None


def _seconds(headers: Mapping[str, str], name: str) -> float | None:
    text = header(headers, name) or ""
    return float(text) if text.replace(".", "", 1).isdecimal() else None
