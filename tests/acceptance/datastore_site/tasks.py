from __future__ import annotations

import time
from pathlib import Path

from django.conf import settings

from cloudtask import Backoff, task
from tests.acceptance.datastore_site.models import Order, Visit


def is_broken() -> bool:
    """Whether the test wants tasks to fail."""
    return (Path(settings.GIVEN["folder"]) / "broken").exists()


def note(name: str, size: int = 0) -> None:
    found = Visit.objects.filter(pk=name).first() or Visit(name=name)
    found.times, found.size = found.times + 1, size
    found.save()


@task
def measure(name: str, data: bytes) -> None:
    note(name, len(data))


@task(max_attempts=1)
def mend(name: str) -> None:
    if is_broken():
        raise ValueError("broken")
    note(name)


# A worker that is killed may leave locks, for which the next attempt waits in vain.
@task(max_attempts=3, backoff=Backoff(min=0.2, max=0.5))
def visit(order: Order) -> None:
    time.sleep(0.02)  # so that a worker can be killed on the way
    if is_broken() and order.number % 50 == 7:
        raise ValueError("broken")
    note(f"order {order.number}")


@task
def close() -> None:
    note("closed")


@task(unique=True)
def single(name: str) -> None:
    note(name)
