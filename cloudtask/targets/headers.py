"""Reads the headers of a dispatch.

Names and meaning: https://cloud.google.com/tasks/docs/creating-http-target-tasks and
.../creating-appengine-handlers, "Reading request headers".
"""

from __future__ import annotations

from collections.abc import Mapping

from cloudtask.message import Delivery

PREFIXES = ("X-CloudTasks-", "X-AppEngine-")
LATEST = 253_402_300_800.0  # unix seconds; no datetime is later


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
    text = header(headers, name) or ""
    return int(text) if text.isdecimal() and len(text) <= 9 else None


def _seconds(headers: Mapping[str, str], name: str) -> float | None:
    text = header(headers, name) or ""
    if not text.replace(".", "", 1).isdecimal():
        return None
    seconds = float(text)
    return seconds if seconds < LATEST else None
