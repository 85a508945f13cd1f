from __future__ import annotations

from cloudtask import PermanentTaskFailure, Retry, SingularTaskFailure, current, task

from .models import Author

calls: list[tuple] = []


@task
def note(*args, **kwargs):
    calls.append((args, kwargs))
    return args


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
