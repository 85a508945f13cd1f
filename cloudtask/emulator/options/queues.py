"""Queues as people write them: {"mail": {"rate": "50/s", "backoff": "1s..10m"}}.

The words are those of the setting CLOUDTASK["QUEUES"]. App Engine's queue.yaml is
translated into them (https://cloud.google.com/tasks/docs/queue-yaml#reference).
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeAlias

import yaml
from google.cloud.tasks_v2 import types

from cloudtask.emulator.calls import queue_rules
from cloudtask.emulator.protocol import Message, names
from cloudtask.emulator.protocol.errors import ApiError
from cloudtask.emulator.queues import QueueConfig

Options: TypeAlias = Mapping[str, Any]
Queues: TypeAlias = Mapping[str, Options] | Iterable[str | tuple[str, Options]]

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
_DURATION = re.compile(r"(\d+(?:\.\d+)?|\.\d+)\s*(ms|s|m|h|d)?")
_YAML_PLAIN = {"max_concurrent_requests": "concurrency", "bucket_size": "burst"}
# "queue.yaml queues: 9 days" (proto comment on CreateTaskRequest.task).
_YAML_TOMBSTONE = "9d"
_YAML_RETRY = {
    "task_age_limit": "max_retry_duration",
    "min_backoff_seconds": "min_backoff",
    "max_backoff_seconds": "max_backoff",
    "max_doublings": "max_doublings",
}
_RATE = re.compile(r"(\d+(?:\.\d+)?|\.\d+)\s*(?:/\s*(s|m|h|d))?")


@dataclass(frozen=True, slots=True)
class Declared:
    """A queue to make at the start.

    With `has_options` False, a queue that the data file kept stays as it is.
    """

    config: QueueConfig
    paused: bool = False
    has_options: bool = False


def declare(
    queues: Queues,
    *,
    project: str,
    location: str,
    defaults: QueueConfig = QueueConfig(),  # noqa: B008 - frozen
) -> dict[str, Declared]:
    """Full names and configurations of the queues.

    `queues` is a mapping of names to options, or names, or (name, options) pairs; a
    name without slashes is an id in `project` and `location`. `defaults` is the
    configuration without options. Raises `ValueError`.
    """
    if isinstance(queues, str):
        raise ValueError(f"queues is a list of names, not a name: [{queues!r}].")
    pairs = queues.items() if isinstance(queues, Mapping) else map(_pair, queues)
    return {
        _full_name(name, project, location): read_options(name, options, defaults)
        for name, options in pairs
    }


def read_options(
    name: str,
    options: Options,
    defaults: QueueConfig = QueueConfig(),  # noqa: B008 - frozen
) -> Declared:
    """The configuration that the options mean; `ValueError` names a wrong one."""
    config, paused = defaults, False
    # The rate sets the burst too, so an explicit burst comes after it.
    for key, value in sorted(
        (options or {}).items(), key=lambda item: item[0] == "burst"
    ):
        if key == "paused":
            paused = _is_set(name, value)
            continue
        try:
            config = _reader(key)(config, value)
        except (TypeError, ValueError) as error:
            raise ValueError(f"Queue {name!r}: {error}") from error
    if config.retry.min_backoff > config.retry.max_backoff:
        raise ValueError(f"Queue {name!r}: the longest backoff is below the shortest.")
    return Declared(config, paused, bool(options))


def parse_options(text: str) -> dict[str, Any]:
    """The options in a text such as "rate=50/s,max_attempts=5,paused"."""
    options: dict[str, Any] = {}
    for item in filter(None, (part.strip() for part in text.split(","))):
        key, separator, value = (part.strip() for part in item.partition("="))
        if not separator:
            options[key] = True
        else:
            options[key] = int(value) if value.lstrip("-").isdecimal() else value
    return options


def read_queue_yaml(path: Path) -> dict[str, dict[str, Any]]:
    """Queue ids and their options.

    `ValueError` when it is not a queue.yaml, `OSError` when it can't be read.
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
    options |= {new: entry[old] for old, new in _YAML_PLAIN.items() if old in entry}
    options |= _read_retry(entry.get("retry_parameters") or {})
    options["tombstone"] = _YAML_TOMBSTONE
    return entry["name"], options


def _is_zero(rate: object) -> bool:
    return str(rate).partition("/")[0].strip() in ("0", "0.0")


def _read_retry(parameters: Mapping[str, Any]) -> dict[str, Any]:
    options = {
        new: parameters[old] for old, new in _YAML_RETRY.items() if old in parameters
    }
    if "task_retry_limit" in parameters:
        # A limit of retries; the first attempt comes on top of them.
        options["max_attempts"] = parameters["task_retry_limit"] + 1
    elif "max_retry_duration" in options:
        options["max_attempts"] = -1
    return options


def seconds(value: object) -> float:
    """0.5, "500ms", "10s", "2m", "1h", "1d" or a timedelta, in seconds."""
    if isinstance(value, timedelta):
        return value.total_seconds()
    match = _DURATION.fullmatch(str(value).strip())
    if match is None or isinstance(value, bool):
        raise ValueError(f"{value!r} is not a duration such as 10, '10s' or '5m'.")
    return float(match[1]) * _UNITS[match[2] or "s"]


def per_second(value: object) -> float:
    """50, "50/s", "30/m", "5/h" or "1/d", in dispatches per second."""
    match = _RATE.fullmatch(str(value).strip())
    if match is None or isinstance(value, bool):
        raise ValueError(f"{value!r} is not a rate such as 50, '50/s' or '30/m'.")
    rate = float(match[1]) / _UNITS[match[2] or "s"]
    if not 0 < rate <= queue_rules.MAX_RATE:
        raise ValueError(f"the rate {value!r} is not above 0 and up to 500/s.")
    return rate


def _pair(entry: str | tuple[str, Options]) -> tuple[str, Options]:
    return (entry, {}) if isinstance(entry, str) else entry


def _full_name(name: str, project: str, location: str) -> str:
    full = name
    if "/" not in name:
        full = f"projects/{project}/locations/{location}/queues/{name}"
    try:
        return str(names.parse_queue_name(full))
    except ApiError as error:
        raise ValueError(f"{name!r}: {error.message}") from None


def _count(value: object, least: int, most: float = math.inf) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{value!r} is not a whole number.")
    if not least <= value <= most:
        raise ValueError(f"{value!r} is not in {least} to {most}.")
    return value


def _is_set(name: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"Queue {name!r}: paused is True or False, not {value!r}.")
    return value


def _rate(config: QueueConfig, value: object) -> QueueConfig:
    rate = per_second(value)
    return replace(config, rate=rate, burst=queue_rules.burst_for(rate))


def _burst(config: QueueConfig, value: object) -> QueueConfig:
    return replace(config, burst=_count(value, 1, 500))


def _concurrency(config: QueueConfig, value: object) -> QueueConfig:
    return replace(config, concurrency=_count(value, 1, queue_rules.MAX_CONCURRENCY))


def _retry(config: QueueConfig, **changes: Any) -> QueueConfig:
    return replace(config, retry=replace(config.retry, **changes))


def _attempts(config: QueueConfig, value: object) -> QueueConfig:
    attempts = _count(value, -1)
    if attempts == 0:
        raise ValueError("max_attempts is -1 (unlimited) or at least 1.")
    return _retry(config, max_attempts=attempts)


def _backoff(config: QueueConfig, value: object) -> QueueConfig:
    parts = value.split("..") if isinstance(value, str) else value
    if hasattr(parts, "min") and hasattr(parts, "max"):
        parts = (parts.min, parts.max)  # cloudtask.Backoff, which is not imported here
    if not isinstance(parts, list | tuple) or len(parts) != 2:
        raise ValueError(f"{value!r} is not a backoff such as '1s..10m'.")
    shortest, longest = parts
    return _retry(config, min_backoff=seconds(shortest), max_backoff=seconds(longest))


def _http_target(config: QueueConfig, value: object) -> QueueConfig:
    target: Message = types.HttpTarget.pb(types.HttpTarget(value))
    try:
        queue_rules.check_http_target(target)
    except ApiError as error:
        raise ValueError(error.message) from None
    return replace(config, http_target=target)


_READERS: dict[str, Callable[[QueueConfig, object], QueueConfig]] = {
    "rate": _rate,
    "burst": _burst,
    "concurrency": _concurrency,
    "max_attempts": _attempts,
    "max_retry_duration": lambda config, value: _retry(
        config, max_retry_duration=seconds(value)
    ),
    "backoff": _backoff,
    "min_backoff": lambda config, value: _retry(config, min_backoff=seconds(value)),
    "max_backoff": lambda config, value: _retry(config, max_backoff=seconds(value)),
    "max_doublings": lambda config, value: _retry(
        config, max_doublings=_count(value, 0)
    ),
    "tombstone": lambda config, value: replace(config, tombstone=seconds(value)),
    "http_target": _http_target,
}


def _reader(key: str) -> Callable[[QueueConfig, object], QueueConfig]:
    if key in _READERS:
        return _READERS[key]
    near = difflib.get_close_matches(key, [*_READERS, "paused"], n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise ValueError(f"{key!r} is not an option of a queue.{hint}")
