"""Checks and freezes TASKS[alias]["OPTIONS"]."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from django.db import connections

from cloudtask.exceptions import ConfigurationError
from cloudtask.options import OPTIONS, Options, nearest

OF_TASK = tuple(one.name for one in OPTIONS.values() if not one.not_in_django_tasks)
OWN = ("results", "priority_queues")


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendOptions:
    """The OPTIONS of a backend, checked.

    `task` holds the options of all its calls; `results` is the alias of the database
    that keeps results; `priority_queues` maps priorities to queues.
    """

    task: Options
    results: str | None
    priority_queues: Mapping[int, str]

    def queue_for(self, queue_name: str, priority: int) -> str:
        """The Cloud Tasks queue of a call.

        Of the thresholds on the side of `priority`, the one furthest from 0 that it
        reaches decides; `{queue}` in it is the task's own queue.
        """
        reached = [
            threshold
            for threshold in self.priority_queues
            if (0 < threshold <= priority) or (priority <= threshold < 0)
        ]
        if not reached:
            return queue_name
        return self.priority_queues[max(reached, key=abs)].format(queue=queue_name)


def read(alias: str, given: Mapping[str, Any]) -> BackendOptions:
    """The OPTIONS of the backend `alias`; raises ConfigurationError."""
    where = f"TASKS[{alias!r}]['OPTIONS']"
    if not isinstance(given, Mapping):
        raise ConfigurationError(f"{where} must be a dict, not {given!r}.")
    for key in given:
        _check_key(where, key)
    try:
        task = Options().updated({k: v for k, v in given.items() if k in OF_TASK})
    except (TypeError, ValueError) as error:
        raise ConfigurationError(f"{where}: {error}") from error
    return BackendOptions(
        task=task,
        results=_results(where, given.get("results", False)),
        priority_queues=_priority_queues(where, given.get("priority_queues", {})),
    )


def _check_key(where: str, key: Any) -> None:
    reason = OPTIONS[key].not_in_django_tasks if key in OPTIONS else ""
    if reason:
        raise ConfigurationError(f"{where} can't have {key!r}: {reason}.")
    known = (*OF_TASK, *OWN)
    if key not in known:
        raise ConfigurationError(f"{where} has no key {key!r}; {nearest(key, known)}")


def _results(where: str, value: Any) -> str | None:
    if value is True:
        return "default"
    if not value:
        return None
    if value not in connections.settings:
        raise ConfigurationError(
            f"{where}['results'] must be True or the alias of a database, not "
            f"{value!r}; {nearest(str(value), connections.settings)}"
        )
    return str(value)


def _priority_queues(where: str, value: Any) -> Mapping[int, str]:
    if not isinstance(value, Mapping):
        raise ConfigurationError(
            f"{where}['priority_queues'] must be a dict such as "
            f'{{50: "{{queue}}-urgent"}}, not {value!r}.'
        )
    for threshold, queue in value.items():
        if type(threshold) is not int or not 0 < abs(threshold) <= 100:
            raise ConfigurationError(
                f"{where}['priority_queues'] has {threshold!r}: a threshold is a whole "
                "number from 1 to 100 or from -100 to -1."
            )
        if not isinstance(queue, str):
            raise ConfigurationError(
                f"{where}['priority_queues'][{threshold}] must be the id of a queue, "
                f"not {queue!r}."
            )
    return dict(value)
