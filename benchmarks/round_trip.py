"""Measures an empty task in a test: `defer`, `run_queued`, and the wire format."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import dramatiq
from django.test import override_settings
from dramatiq.brokers.stub import StubBroker

from benchmarks import tasks
from benchmarks.harness import Budget, Case, Effort, Results, Scenario
from benchmarks.project import MEMORY, cloudtask_settings
from cloudtask.testing import run_queued
from cloudtask.transports import memory

FEW, SOME, MANY, MOST = 100, 1_000, 10_000, 100_000
FLAT = 1.3  # limit for the cost of a task among many, over that of one among few
FEW_REPEATS = "The largest size is repeated twice only, so a busy machine shows."
WIRE = "cloudtask makes and opens the whole wire format; Immediate makes none."
IMMEDIATE = "django.tasks (Immediate)"
EAGER = {
    "Celery (eager)": tasks.celery_eager_task.delay,
    "Huey (immediate)": tasks.huey_immediate_task,
    IMMEDIATE: tasks.immediate_task.enqueue,
}


def scenario(effort: Effort) -> Scenario:
    peer = _Dramatiq()
    sizes = [FEW, SOME, MANY, MOST]
    return Scenario(
        title="defer + run_queued of no-op calls; peers as their tests run them",
        about=(
            "cloudtask makes the whole wire format, opens it and runs each call in"
            " virtual time. Celery, Huey and django.tasks call the function at once,"
            " with no queue. Dramatiq runs a worker in a thread."
        ),
        cases=[
            *map(_ours, sizes),
            *(_eager(name, enqueue) for name, enqueue in EAGER.items()),
            Case("Dramatiq (stub, one worker)", peer.run, SOME, peer.working),
        ],
        baseline=_name(SOME),
        budgets=[
            *(_under_budget(size) for size in sizes),
            *(_flat(size) for size in sizes if size > FEW),
        ],
        around=lambda: override_settings(
            CLOUDTASK=cloudtask_settings(TRANSPORT=MEMORY)
        ),
    )


def _name(size: int) -> str:
    return f"cloudtask, {size:,}"


def _under_budget(size: int) -> Budget:
    def figure(results: Results) -> float:
        return results[_name(size)].best / results[IMMEDIATE].best

    return Budget(
        f"defer + run_queued, {size:,}, over {IMMEDIATE}", figure, 1, "x", WIRE
    )


def _flat(size: int) -> Budget:
    def figure(results: Results) -> float:
        return results[_name(size)].best / results[_name(FEW)].best

    return Budget(
        f"a task of {size:,} over one of {FEW}", figure, FLAT, "x", FEW_REPEATS
    )


def _ours(size: int) -> Case:
    rounds = max(1, SOME // size)

    def run() -> None:
        for _ in range(rounds):
            for number in range(size):
                tasks.ours.defer(number, template="rich")
            assert len(run_queued(limit=size)) == size

    # The largest size takes seconds, so two repeats are enough.
    return Case(
        _name(size), run, rounds * size, _empty_queue, 2 if size == MOST else None
    )


@contextmanager
def _empty_queue() -> Iterator[None]:
    memory.queue().clear()
    yield
    memory.queue().clear()


def _eager(name: str, enqueue: Callable[..., object]) -> Case:
    def run() -> None:
        for number in range(SOME):
            enqueue(number, template="rich")

    return Case(name, run, SOME)


class _Dramatiq:
    """A broker, an actor and a worker.

    Each repeat creates new ones, because a broker accepts no second worker.
    """

    def run(self) -> None:
        for number in range(SOME):
            self.actor.send(number, template="rich")
        self.broker.join("default")

    @contextmanager
    def working(self) -> Iterator[None]:
        self.broker = StubBroker()
        self.broker.emit_after("process_boot")
        self.actor = dramatiq.actor(
            tasks.noop, broker=self.broker, queue_name="default"
        )
        worker = dramatiq.Worker(self.broker, worker_timeout=10, worker_threads=1)
        worker.start()
        try:
            yield
        finally:
            worker.stop()
