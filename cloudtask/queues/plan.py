"""Compares declared queues with those of the service, and says what would change.

QUEUES' `max_attempts` is counted by the handler. The service itself must never give up,
since it would drop tasks in silence: its own limit is -1, without a longest duration.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from cloudtask.conf.queues import Queue, former_part_of, queues_of_service
from cloudtask.queues.actual import ActualQueue

CREATE, CHANGE, SAME = "create", "change", "same"
UNMANAGED, DISABLED = "unmanaged", "disabled"

CLOSE = 0.001  # of a rate: the service rounds it
TENFOLD = 10

_RATE = "rate_limits.max_dispatches_per_second"
_CONCURRENCY = "rate_limits.max_concurrent_dispatches"
_ATTEMPTS = "retry_config.max_attempts"
_DURATION = "retry_config.max_retry_duration"
_MIN = "retry_config.min_backoff"
_MAX = "retry_config.max_backoff"
_DOUBLINGS = "retry_config.max_doublings"


@dataclass(frozen=True, slots=True)
class Difference:
    """A field of a queue that the service has otherwise. `path` is its leaf in the
    mask of an update, `before` None for a queue that does not exist."""

    path: str
    before: Any
    after: Any

    @property
    def is_tenfold(self) -> bool:
        """Whether a limit grows or shrinks by a factor of ten or more."""
        if self.path not in (_RATE, _CONCURRENCY) or not self.before:
            return False
        factor = self.after / self.before
        return not 1 / TENFOLD < factor < TENFOLD


@dataclass(frozen=True, slots=True)
class Step:
    """The change that one queue needs. `seen` is the queue as it was read."""

    name: str
    action: str
    differences: tuple[Difference, ...] = ()
    note: str = ""
    seen: ActualQueue | None = None

    @property
    def is_write(self) -> bool:
        return self.action in (CREATE, CHANGE)

    @property
    def is_tenfold(self) -> bool:
        return any(one.is_tenfold for one in self.differences)


def planned(
    declared: Mapping[str, Queue], actual: Mapping[str, ActualQueue]
) -> list[Step]:
    """A step for each queue by name: those that are declared, and those that are not,
    which are reported and never changed."""
    wanted = queues_of_service(declared)
    return [
        _step(name, wanted[name], actual.get(name))
        if name in wanted
        else _left_alone(name, former_part_of(declared, name), actual.get(name))
        for name in sorted({*wanted, *actual})
    ]


def _left_alone(name: str, was: Queue | None, actual: ActualQueue | None) -> Step:
    note = "not declared: left alone"
    if was is not None:
        note = f"no part of {was.name!r} now: left alone, and sends what waits in it"
    return Step(name, UNMANAGED, note=note, seen=actual)


def _step(name: str, declared: Queue, actual: ActualQueue | None) -> Step:
    found = tuple(differences(declared, actual))
    if not declared.managed:
        note = "managed elsewhere: compared only"
        action = UNMANAGED if found or actual is None else SAME
        return Step(name, action, found, note, actual)
    if actual is None:
        return Step(name, CREATE, found)
    if actual.state == "DISABLED":
        note = "disabled: a queue.yaml omits it. Resume it, and use no queue.yaml"
        return Step(name, DISABLED, found, note, actual)
    return Step(name, CHANGE if found else SAME, found, seen=actual)


def differences(declared: Queue, actual: ActualQueue | None) -> Iterator[Difference]:
    """The fields in which a queue is unlike its declaration."""
    for path, wanted in wanted_fields(declared).items():
        before = None if actual is None else fields_of(actual)[path]
        if actual is None or not _is_same(path, before, wanted):
            yield Difference(path, before, wanted)


def wanted_fields(declared: Queue) -> dict[str, Any]:
    """The fields that a declaration decides; what it leaves out is not ours."""
    fields: dict[str, Any] = {_ATTEMPTS: -1, _DURATION: timedelta(0)}
    if declared.rate is not None:
        fields[_RATE] = declared.rate
    if declared.concurrency is not None:
        fields[_CONCURRENCY] = declared.concurrency
    if declared.backoff is not None:
        fields[_MIN] = declared.backoff.min
        fields[_MAX] = declared.backoff.max
        fields[_DOUBLINGS] = declared.backoff.doublings
    return {path: value for path, value in fields.items() if value is not None}


def fields_of(actual: ActualQueue) -> dict[str, Any]:
    return {
        _RATE: actual.rate,
        _CONCURRENCY: actual.concurrency,
        _ATTEMPTS: actual.max_attempts,
        _DURATION: actual.max_retry_duration,
        _MIN: actual.min_backoff,
        _MAX: actual.max_backoff,
        _DOUBLINGS: actual.doublings,
    }


def _is_same(path: str, before: Any, wanted: Any) -> bool:
    """Whether two values are one as the service stores them: it cuts backoffs to whole
    seconds, and rounds rates."""
    if isinstance(wanted, timedelta):
        return int(before.total_seconds()) == int(wanted.total_seconds())
    if path == _RATE:
        return bool(abs(before - wanted) <= CLOSE * wanted)
    return bool(before == wanted)


def shown(value: Any) -> str:
    """A value of a field as text."""
    if isinstance(value, timedelta):
        return f"{value.total_seconds():g}s"
    return f"{value:g}" if isinstance(value, float) else str(value)


# For those who may not write: the same changes in the words of other tools.

_FLAGS = {
    _RATE: "--max-dispatches-per-second",
    _CONCURRENCY: "--max-concurrent-dispatches",
    _ATTEMPTS: "--max-attempts",
    _DURATION: "--max-retry-duration",
    _MIN: "--min-backoff",
    _MAX: "--max-backoff",
    _DOUBLINGS: "--max-doublings",
}


def as_gcloud(steps: Sequence[Step], parent: str) -> Iterator[str]:
    """Commands of gcloud that do the steps. It changes only the flags given."""
    _, project, _, location = parent.split("/")
    for step in steps:
        if step.is_write:
            verb = "create" if step.action == CREATE else "update"
            flags = [f"{_FLAGS[d.path]}={_flag(d)}" for d in step.differences]
            place = [f"--project={project}", f"--location={location}"]
            yield " ".join(
                ["gcloud", "tasks", "queues", verb, step.name, *place, *flags]
            )


def _flag(difference: Difference) -> str:
    if difference.path == _ATTEMPTS:
        return "unlimited"
    return shown(difference.after)


def as_terraform(declared: Mapping[str, Queue], parent: str) -> Iterator[str]:
    """A resource for each declared queue, or for each of its parts."""
    _, project, _, location = parent.split("/")
    for name, queue in sorted(queues_of_service(declared).items()):
        yield f'resource "google_cloud_tasks_queue" "{name.replace("-", "_")}" {{'
        yield f'  name     = "{name}"'
        yield f'  project  = "{project}"'
        yield f'  location = "{location}"'
        for block in ("rate_limits", "retry_config"):
            yield f"  {block} {{"
            for path, value in wanted_fields(queue).items():
                head, _, leaf = path.partition(".")
                if head == block and path != _DURATION:
                    yield f"    {leaf} = {_quoted(value)}"
            yield "  }"
        yield "}"


def _quoted(value: Any) -> str:
    return f'"{shown(value)}"' if isinstance(value, timedelta) else shown(value)
