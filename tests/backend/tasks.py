"""Tasks as an application declares them, with the library that is installed."""

from __future__ import annotations

from datetime import UTC, datetime

from cloudtask import PermanentTaskFailure, Retry
from cloudtask.backend.library import task
from tests.testapp.models import Author
from tests.testapp.tasks import calls


@task
def note(*args, **kwargs):
    calls.append((args, kwargs))
    return [*args]


@task
def add(a, b=1):
    calls.append((a, b))
    return a + b


@task
async def anote(value):
    calls.append(("async", value))
    return value


@task(takes_context=True)
def see(context, value):
    calls.append((context.attempt, context.task_result, value))
    return context.task_result.id


@task(queue_name="mail")
def mail(to):
    calls.append(to)


@task(backend="kept")
def keep(value):
    calls.append(value)
    return value


@task(backend="kept", takes_context=True)
def fail_until(context, attempt):
    calls.append(context.attempt)
    if context.attempt < attempt:
        raise ValueError(f"not at attempt {context.attempt}")
    return "at last"


@task(backend="kept", takes_context=True)
def peek(context):
    """The result as others see it while the task runs."""
    found = peek.get_result(context.task_result.id)
    calls.append((found.status, found.attempts))


@task(backend="kept")
def give_up():
    raise PermanentTaskFailure("no use")


@task(backend="kept", takes_context=True)
def ask_again(context):
    if context.attempt == 1:
        raise Retry(delay=30)


@task(backend="kept")
def leave():
    raise SystemExit("no more paper")


@task(backend="kept")
def tell_time():
    calls.append("told")
    return datetime(2026, 1, 1, tzinfo=UTC)


@task
def tell_time_to_nobody():
    return datetime(2026, 1, 1, tzinfo=UTC)


@task(backend="kept")
def write_and_fail(name):
    Author.objects.create(name=name)
    raise ValueError("after the write")


@task(backend="kept")
def write(name):
    Author.objects.create(name=name)
    return name


@task(backend="kept_elsewhere")
def keep_elsewhere(value):
    return value


@task(backend="urgent")
def hurry(value):
    calls.append(value)


@task(backend="immediate")
def declared_elsewhere(value):
    calls.append(value)


class Holder:
    def inner():  # in a class body, as the trap has it
        pass
