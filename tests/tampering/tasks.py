"""Tasks that tell which calls have been made."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from cloudtask import task
from cloudtask.backend.library import task as library_task

called: list[tuple[str, Any]] = []


@task(max_attempts=2)
def plain(value: Any, ballast: object = None) -> None:
    called.append(("plain", value))


@task(atomic=True)
def once(value: Any) -> None:
    called.append(("once", value))


@task(unique=True)
def single(value: Any) -> None:
    called.append(("single", value))


@task(max_attempts=1)
def fail(value: Any) -> None:
    called.append(("fail", value))
    raise ValueError("broken")


@task(keep_result=timedelta(days=1))
def give(value: Any) -> Any:
    called.append(("give", value))
    return f"{value} is given"


@task
def collect(values: Any) -> None:
    called.append(("collect", values))


@task
def due(value: Any) -> None:
    """A task to which tests give schedules."""
    called.append(("due", value))


@library_task(backend="kept")
def give_kept(value: Any) -> Any:
    called.append(("give_kept", value))
    return f"{value} is given"


@task
def secret(*args: Any, **kwargs: Any) -> None:
    """A task that no test enqueues."""
    called.append(("secret", args))


@task(max_attempts=2)
def visit(row: Any, tag: str) -> None:
    called.append((f"visit {tag}", row.pk))
    if row.pk % 10 == 3:
        raise ValueError("broken")


@task
def finish(tag: str) -> None:
    called.append(("finish", tag))
