from __future__ import annotations

from typing import Any

from django.db import connections

from cloudtask import (
    PermanentTaskFailure,
    Retry,
    SingularTaskFailure,
    codec,
    current,
    environment,
    task,
)

from .models import Author

calls: list[Any] = []


@task
def note(*args, **kwargs):
    calls.append((args, kwargs))
    return args


@task
def note_context():
    calls.append(current(required=True).task)


@task
def add_author(name: str) -> None:
    Author.objects.create(name=name)


@task
async def anote(value):
    calls.append(("async", value))


@task(small=True)
def small_note(value):
    calls.append(("small", value))


@task
def fail(message="broken"):
    calls.append(("fail", current().attempt))
    raise ValueError(message)


@task
def fail_for_good():
    raise PermanentTaskFailure("no use")


@task
def fail_quietly():
    raise SingularTaskFailure("later")


@task
def again(times, delay=30):
    context = current()
    calls.append(("again", context.attempt))
    if context.attempt <= times:
        raise Retry(delay=delay)


@task
def see_context():
    calls.append(current())


class Bomb:
    """A value whose decoding leaves a trace."""

    decoded: list[str] = []

    @classmethod
    def decode(cls, text: str) -> Bomb:
        cls.decoded.append(text)
        return cls()


codec.register(Bomb, "tests.bomb", encode=lambda bomb: "tick", decode=Bomb.decode)


@task(max_attempts=2)
def fail_twice():
    calls.append(("fail_twice", current().attempt))
    raise ValueError("broken")


@task(atomic=True)
def add_author_atomically(name: str) -> None:
    Author.objects.create(name=name)


@task
def note_transactions():
    calls.append({c.alias: c.in_atomic_block for c in connections.all()})


@task
def visit(row, *args, **kwargs):
    calls.append((row.pk, current().shard_index))


@task
def visited(*args, **kwargs):
    calls.append(("finalize", args, kwargs, current().iteration.report()))


@task
def see_environment():
    calls.append(
        {
            "is_in_task": environment.is_in_task(),
            "name": environment.task_name(),
            "queue": environment.task_queue_name(),
            "retries": environment.task_retry_count(),
        }
    )


@task(atomic=True)
async def aadd_author_and_fail(name: str) -> None:
    await Author.objects.acreate(name=name)
    raise ValueError("broken")


@task
async def asee_context():
    calls.append(current())
