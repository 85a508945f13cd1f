from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from cloudtask.schedules import Declared, declare, declared
from cloudtask.schedules.declared import _declared
from tests.schedules import tasks

Give = Callable[..., Declared]


@pytest.fixture(autouse=True)
def _no_schedules() -> Iterator[None]:
    before = dict(_declared)
    _declared.clear()
    tasks.seen.clear()
    yield
    _declared.clear()
    _declared.update(before)


@pytest.fixture
def give() -> Give:
    """Gives a schedule to a task, as `@task(schedule=...)` does."""

    def given(schedule: Any, task: Any = tasks.note) -> Declared:
        before = set(declared())
        declare(task._self_definition, schedule)
        [key] = set(declared()) - before or {task.path}
        return declared()[key]

    return given
