"""A task that does nothing, in cloudtask and in other libraries."""

from __future__ import annotations

from typing import Any

import celery
import dramatiq
import huey
from dramatiq.brokers.stub import StubBroker

from benchmarks.project import django_tasks
from cloudtask import task


def noop(user_id: int, template: str = "plain") -> None:
    pass


@task
def ours(user_id: int, template: str = "plain") -> None:
    pass


@task(small=True)
def ours_small(user_id: int, template: str = "plain") -> None:
    pass


celery_memory = celery.Celery("memory", broker="memory://", set_as_current=False)
celery_memory.conf.update(task_ignore_result=True)
celery_task = celery_memory.task(noop, name="noop")

celery_eager = celery.Celery("eager", broker="memory://", set_as_current=False)
celery_eager.conf.update(task_always_eager=True, task_ignore_result=True)
celery_eager_task = celery_eager.task(noop, name="noop")

dramatiq_broker = StubBroker()
dramatiq_broker.emit_after("process_boot")
dramatiq_task: Any = dramatiq.actor(noop, broker=dramatiq_broker, queue_name="default")

huey_memory = huey.MemoryHuey("memory", immediate=False)
huey_memory_task = huey_memory.task(name="memory")(noop)
huey_immediate = huey.MemoryHuey("immediate", immediate=True)
huey_immediate_task = huey_immediate.task(name="immediate")(noop)

# Immediate is the project's default backend.
immediate_task: Any = django_tasks().task()(noop)  # type: ignore[attr-defined]
dummy_task: Any = immediate_task.using(backend="dummy")
