"""queue.yaml, App Engine's file of queues, as options.

https://cloud.google.com/tasks/docs/queue-yaml#reference
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

_PLAIN = {"max_concurrent_requests": "concurrency", "bucket_size": "burst"}
_RETRY = {
    "task_age_limit": "max_retry_duration",
    "min_backoff_seconds": "min_backoff",
    "max_backoff_seconds": "max_backoff",
    "max_doublings": "max_doublings",
}


def read_queue_yaml(path: Path) -> dict[str, dict[str, Any]]:
    """Queue ids and their options; `ValueError` when the file says something else.

    `OSError` when it can't be read.
    """
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not YAML: {error}") from error
    entries = document.get("queue") if isinstance(document, Mapping) else None
    if not isinstance(entries, list):
        raise ValueError(f'{path} has no list of queues under "queue".')
    return dict(_read_entry(entry, path) for entry in entries)


def _read_entry(entry: object, path: Path) -> tuple[str, dict[str, Any]]:
    if not isinstance(entry, Mapping) or not isinstance(entry.get("name"), str):
        raise ValueError(f"{path} has a queue without a name: {entry!r}.")
    options: dict[str, Any] = {}
    rate = entry.get("rate")
    if rate is not None and _is_zero(rate):
        # "If the rate is 0, the queue is considered paused."
        options["paused"] = True
    elif rate is not None:
        options["rate"] = str(rate)
    options |= {new: entry[old] for old, new in _PLAIN.items() if old in entry}
    options |= _read_retry(entry.get("retry_parameters") or {})
    return entry["name"], options


def _is_zero(rate: object) -> bool:
    return str(rate).partition("/")[0].strip() in ("0", "0.0")


def _read_retry(parameters: Mapping[str, Any]) -> dict[str, Any]:
    options = {new: parameters[old] for old, new in _RETRY.items() if old in parameters}
    if "task_retry_limit" in parameters:
        # A limit of retries; the first attempt comes on top of them.
        options["max_attempts"] = parameters["task_retry_limit"] + 1
    elif "max_retry_duration" in options:
        options["max_attempts"] = -1
    return options
