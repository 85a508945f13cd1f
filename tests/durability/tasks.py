"""Tasks whose effect is a row: how often they ran is there to be counted."""

from __future__ import annotations

from contextlib import closing
from datetime import timedelta

from django.db import connection, connections, transaction

from cloudtask import PermanentTaskFailure, Retry, current, task
from cloudtask.options import Backoff
from tests.testapp.models import Author

contexts: list = []


def add(name: str, using: str = "default") -> None:
    Author.objects.using(using).create(name=name[:100])


@task
def plain(name: str, ballast: object = None) -> None:
    add(name)


@task(small=True)
def small(name: str, ballast: object = None) -> None:
    add(name)


@task(atomic=True)
def once(name: str, ballast: object = None) -> None:
    add(name)


@task(atomic=True, database="other")
def once_elsewhere(name: str) -> None:
    add(name, "other")


@task(database="other")
def elsewhere(name: str, ballast: object = None) -> None:
    add(name, "other")


@task(atomic=True)
async def once_awaited(name: str, ballast: object = None) -> None:
    await Author.objects.acreate(name=name)


@task(atomic=True)
def once_then_raise(name: str) -> None:
    add(name)
    raise ValueError(name)


@task(atomic=True)
def once_after_a_retry(name: str, ballast: object = None) -> None:
    add(name)
    if current().attempt == 1:
        raise Retry(delay=0)


@task
def after_a_retry(name: str, ballast: object = None) -> None:
    if current().attempt == 1:
        raise Retry(delay=0)
    add(name)


@task
def remember(value: object) -> None:
    contexts.append((current(), value))


@task(unique=True)
def single(name: str, ballast: object = None) -> None:
    add(name)


@task(unique=lambda name, note="": name.lower())
def single_by_name(name: str, note: str = "") -> None:
    add(name)


@task(unique=True, small=True)
def single_small(name: str) -> None:
    add(name)


@task(max_attempts=3)
def fail_thrice(message: object = "broken", ballast: object = None) -> None:
    contexts.append(current())
    raise ValueError(message)


@task(max_attempts=2)
def fail_unless_mended(name: str, ballast: object = None) -> None:
    if not mended:
        raise ValueError("not yet")
    add(name)


mended: list[bool] = []


@task
def fail_for_good(password: str, note: str = "") -> None:
    raise PermanentTaskFailure("no use")


@task(max_attempts=5, backoff=Backoff(min=timedelta(seconds=10)))
def fail_slowly() -> None:
    contexts.append(current())
    raise ValueError("slowly")


def sevenfold(error: BaseException, context: object) -> float | None:
    """Seven seconds an attempt; gives up on a KeyError."""
    return None if isinstance(error, KeyError) else 7.0 * context.attempt  # type: ignore[attr-defined]


@task(backoff=sevenfold)
def fail_by_function(kind: str = "ValueError") -> None:
    contexts.append(current())
    raise {"ValueError": ValueError, "KeyError": KeyError, "Retry": Retry}[kind]("oh")


def breaks(error: BaseException, context: object) -> float:
    raise RuntimeError("the backoff itself is broken")


@task(backoff=breaks, max_attempts=2)
def fail_with_broken_backoff() -> None:
    raise ValueError("oh")


@task
def ask_for(delay: object) -> None:
    raise Retry(delay=delay)


@task(max_attempts=1)
def lose_the_connection() -> None:
    close_from_the_server()
    raise ValueError("and fail")


@task
def lose_the_connection_and_return(ballast: object = None) -> None:
    close_from_the_server()


def close_from_the_server() -> None:
    """As a server does with a connection that was idle for long."""
    ask, kill = {
        "postgresql": ("pg_backend_pid()", "SELECT pg_terminate_backend(%s)"),
        "mysql": ("CONNECTION_ID()", "KILL %s"),
    }[connection.vendor]
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT {ask}")
        [number] = cursor.fetchone()
    other = connections.create_connection("default")
    with closing(other), other.cursor() as cursor:
        cursor.execute(kill, [number])


@task(atomic=True)
def once_and_defer(name: str) -> None:
    add(name)
    plain.defer(name)


@task(atomic=True)
def once_with_a_broken_hook(name: str) -> None:
    def hook() -> None:
        raise RuntimeError("a hook")

    add(name)
    transaction.on_commit(hook)
    plain.defer(name)


@task(max_attempts=1)
def fail_once(name: str, ballast: object = None) -> None:
    raise ValueError(name)


@task(max_attempts=1)
async def cancel_itself() -> None:
    import asyncio

    waiting = asyncio.create_task(asyncio.sleep(60))
    waiting.cancel()
    await waiting
