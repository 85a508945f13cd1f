"""Checks the queues that a project declares in CLOUDTASK["QUEUES"]."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any
from zlib import crc32

from cloudtask.exceptions import ConfigurationError, noted
from cloudtask.options import Backoff, nearest


@dataclass(frozen=True, slots=True, kw_only=True)
class Queue:
    """The declared options of a queue; None means that the service chooses.

    `rate` is dispatches per second. A queue that is not `managed` is compared with the
    service, but never changed. With a `spread` above 1, the service has that many
    queues in its place, the parts, each with all the other options.
    """

    name: str
    rate: float | None = None
    concurrency: int | None = None
    max_attempts: int | None = None
    backoff: Backoff | None = None
    managed: bool = True
    spread: int = 1

    @property
    def parts(self) -> tuple[str, ...]:
        """The ids of its queues in the service."""
        if self.spread == 1:
            return (self.name,)
        return tuple(f"{self.name}-{number}" for number in range(self.spread))

    def part_for(self, key: str) -> str:
        """The id of the part that takes a task. It only follows from `key`, so that a
        task that is sent twice goes to one queue."""
        if self.spread == 1:
            return self.name
        return f"{self.name}-{crc32(key.encode()) % self.spread}"


def queues_of_service(declared: Mapping[str, Queue]) -> dict[str, Queue]:
    """The queues that the service has for declared ones, by id: all parts."""
    return {
        part: replace(queue, name=part, spread=1)
        for queue in declared.values()
        for part in queue.parts
    }


def declared_name(declared: Mapping[str, Queue], part: str) -> str:
    """The name of the declared queue of which `part` is a part; else `part`."""
    head, _, _ = part.rpartition("-")
    queue = declared.get(head)
    if part in declared or queue is None or part not in queue.parts:
        return part
    return head


def former_part_of(declared: Mapping[str, Queue], name: str) -> Queue | None:
    """The declared queue of which a queue of the service was a part, as its name tells;
    None if it is still a part, or never was."""
    if name in queues_of_service(declared):
        return None
    head, _, number = name.rpartition("-")
    return declared.get(name) or (declared.get(head) if number.isdecimal() else None)


def check_type(where: str, value: Any, types: tuple[type, ...]) -> None:
    if isinstance(value, types) and (bool in types or not isinstance(value, bool)):
        return
    wanted = " or ".join(t.__name__ for t in types if t is not type(None))
    raise ConfigurationError(f"{where} must be {wanted}, not {value!r}.")


_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def _seconds(text: str) -> timedelta:
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)\s*", text)
    if not match:
        raise ValueError(f"{text!r} is not a duration such as 10s, 5m or 1h")
    return timedelta(seconds=float(match[1]) * _UNITS[match[2]])


def _rate(value: Any) -> float:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)/(s|m|h|d)", str(value).replace(" ", ""))
    if not match:
        raise ValueError(f"{value!r} is not a rate such as 50/s or 10/m")
    rate = float(match[1]) / _UNITS[match[2]]
    if not 0 < rate <= 500:
        raise ValueError(f"{value!r} is not above 0 and up to 500/s")
    return rate


def _queue_backoff(value: Any) -> Backoff:
    if isinstance(value, Backoff):
        return value
    low, dots, high = str(value).partition("..")
    if not dots:
        raise ValueError(f"{value!r} is not a range such as 1s..10m")
    return Backoff(min=_seconds(low), max=_seconds(high))


def _count(value: Any, most: int | None = None) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{value!r} is not a whole number from 1")
    if most is not None and value > most:
        raise ValueError(f"{value!r} is more than the {most} that Cloud Tasks takes")
    return value


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"{value!r} is neither True nor False")
    return value


MOST_LETTERS = 100  # of a queue id
MOST_PARTS = 100  # a project has 1,000 queues in a region


_QUEUE_KEYS: dict[str, Callable[[Any], Any]] = {
    "rate": _rate,
    "concurrency": lambda value: _count(value, most=5000),
    "max_attempts": _count,
    "backoff": _queue_backoff,
    "managed": _flag,
    "spread": lambda value: _count(value, most=MOST_PARTS),
}


def _queue(name: Any, declared: Any) -> Queue:
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9-]{1,100}", name):
        raise ConfigurationError(
            f"CLOUDTASK['QUEUES'] has {name!r}; a queue id has 1 to 100 letters, "
            "digits and hyphens."
        )
    where = f"CLOUDTASK['QUEUES'][{name!r}]"
    check_type(where, declared, (dict,))
    values, problems = {}, []
    for key, value in declared.items():
        if key not in _QUEUE_KEYS:
            problems.append(
                f"{where} has no key {key!r}; {nearest(str(key), _QUEUE_KEYS)}"
            )
            continue
        try:
            values[key] = _QUEUE_KEYS[key](value)
        except (ValueError, TypeError, OverflowError) as error:
            problems.append(f"{where}[{key!r}]: {error}.")
    if problems:
        raise ConfigurationError.of(problems)
    return Queue(name=name, **values)


def queues_of(key: str, value: Any) -> dict[str, Queue]:
    """The declared queues by id; raises ConfigurationError with every problem."""
    if not isinstance(value, Mapping):
        raise ConfigurationError(
            f"CLOUDTASK[{key!r}] must be a dict of queue ids, such as "
            f'{{"default": {{}}}}, not {value!r}.'
        )
    queues: dict[str, Queue] = {}
    problems: list[str] = []
    for name, declared in value.items():
        with noted(problems):
            queues[name] = _queue(name, declared or {})
    problems.extend(_clashes(queues))
    if problems:
        raise ConfigurationError.of(problems)
    return queues


def _clashes(queues: Mapping[str, Queue]) -> Iterator[str]:
    """Parts that can't be queues: too long, or declared as queues of their own."""
    seen: dict[str, str] = {}
    for queue in queues.values():
        for part in queue.parts:
            where = f"CLOUDTASK['QUEUES'][{queue.name!r}]['spread']"
            other = seen.setdefault(part, queue.name)
            if other != queue.name:
                yield (
                    f"CLOUDTASK['QUEUES'] has {part!r} twice: for {other!r} and for "
                    f"{queue.name!r}, of which one is spread. Rename one of them."
                )
            elif len(part) > MOST_LETTERS:
                yield f"{where}: the id {part!r} has more than {MOST_LETTERS} letters."


_DJANGAE_QUEUE_KEYS = {
    "rate_per_second": "rate",
    "rate_max_concurrent": "concurrency",
    "retry_max_attempts": "max_attempts",
}


FOR_EVER = 2**31 - 1  # attempts; written as -1 by djangae and Cloud Tasks


def _from_djangae(ours: str, value: Any) -> Any:
    if ours == "rate":
        return f"{value}/s"
    return FOR_EVER if ours == "max_attempts" and value == -1 else value


def djangae_queues(value: Any) -> dict[str, Any]:
    """CLOUD_TASKS_QUEUES, a list of {"name": ..., "rate_per_second": ...}, as QUEUES.

    Other keys are ignored, because other libraries also read the setting.
    """
    try:
        return {
            entry["name"]: {
                ours: _from_djangae(ours, entry[theirs])
                for theirs, ours in _DJANGAE_QUEUE_KEYS.items()
                if entry.get(theirs) is not None
            }
            for entry in value
        }
    except (TypeError, KeyError, AttributeError) as error:
        raise ConfigurationError(
            'CLOUD_TASKS_QUEUES must be a list of dicts, each with a "name". Declare '
            "CLOUDTASK['QUEUES'] instead."
        ) from error
