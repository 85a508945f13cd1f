from __future__ import annotations

import time

from cloudtask import Backoff, PermanentTaskFailure, Retry, current, task
from tests.acceptance.project.ledger.models import Entry


def note(text: str) -> None:
    context = current()
    assert context is not None
    Entry.objects.create(
        text=text,
        task_name=context.name,
        attempt=context.attempt,
        written_at=time.time(),
    )


@task
def write(text: str) -> None:
    note(text)


@task
async def write_async(text: str) -> None:
    from asgiref.sync import sync_to_async

    await sync_to_async(note)(text)


@task(backoff=Backoff(min=0.2, max=5))
def fail_until(text: str, attempt: int) -> None:
    """Fails until it has been tried `attempt` times."""
    context = current()
    assert context is not None
    if context.attempt < attempt:
        raise ConnectionError(f"attempt {context.attempt} of {attempt}")
    note(text)


@task(queue="mail")
def fail_always(text: str) -> None:
    raise ConnectionError(text)


@task
def fail_for_good(text: str) -> None:
    raise PermanentTaskFailure(text)


@task
def ask_again(text: str) -> None:
    context = current()
    assert context is not None
    if context.attempt == 1:
        raise Retry(delay=0.1)
    note(text)


@task
def measure(text: str, data: bytes) -> None:
    note(f"{text}: {len(data)}")


@task(max_attempts=2, backoff=Backoff(min=0.1, max=1))
def hang(text: str) -> None:
    note(text)
    time.sleep(600)
