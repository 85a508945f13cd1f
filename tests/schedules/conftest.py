from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from cloudtask.schedules import Declared, declare, declared
from cloudtask.schedules.declared import _declared
from tests.schedules import tasks
from tests.support import clock

Give = Callable[..., Declared]


@pytest.fixture(autouse=True)
def _no_schedules() -> Iterator[None]:
    before = dict(_declared)
    _declared.clear()
    tasks.seen.clear()
    tasks.occurrences.clear()
    yield
    _declared.clear()
    _declared.update(before)


@pytest.fixture(autouse=True)
def _ten_past() -> Iterator[None]:
    """Begin at ten past an hour, so that no hour ends while a test runs."""
    with clock.ahead((600.0 - time.time()) % 3600.0):
        yield


@pytest.fixture
def give() -> Give:
    """Gives a schedule to a task, as `@task(schedule=...)` does."""

    def given(schedule: Any, task: Any = tasks.note) -> Declared:
        before = set(declared())
        declare(task._self_definition, schedule)
        [key] = set(declared()) - before or {task.path}
        return declared()[key]

    return given
