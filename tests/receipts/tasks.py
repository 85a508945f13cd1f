"""Tasks whose results are kept."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from cloudtask import PermanentTaskFailure, Receipt, Retry, current, receipts, task
from cloudtask.message import Message
from tests.testapp.models import Author

A_DAY = timedelta(days=1)

broken: set[str] = set()
asked: list[Any] = []


@task(keep_result=A_DAY)
def echo(value: Any) -> Any:
    return value


@task(keep_result=A_DAY)
async def aecho(value: int) -> int:
    return value


@task(keep_result=A_DAY, atomic=True)
def write(name: str, value: Any = None) -> Any:
    return Author.objects.create(name=name).pk if value is None else value


@task(keep_result=A_DAY, atomic=True, database="other")
def write_elsewhere(name: str) -> str:
    Author.objects.using("other").create(name=name)
    return name


@task(keep_result=A_DAY, max_attempts=2)
def fragile(word: str) -> str:
    if "fragile" in broken:
        raise ValueError(f"no {word} today")
    return word


@task(keep_result=A_DAY)
def once_more() -> int:
    attempt = current(required=True).attempt
    if attempt < 3:
        raise Retry(delay=1)
    return attempt


@task(keep_result=A_DAY)
def hopeless() -> None:
    raise PermanentTaskFailure("never")


@task
def forgetful() -> int:
    return 1


@task
def impatient() -> None:
    echo.defer(1).result(timeout=1)


@task(keep_result=A_DAY)
def huge(size: int) -> str:
    Author.objects.create(name="huge")
    return "x" * size


@task(keep_result=A_DAY)
def returns_asked() -> list[Any]:
    return asked


@task(keep_result=A_DAY)
def counted() -> int:
    asked.append(1)
    return len(asked)


@task(keep_result=A_DAY, cancellable=True)
def stoppable() -> int:
    context = current(required=True)
    if "itself" in broken:
        asked.append(context.is_cancelled)
        asked.append(asked[0].cancel())
        asked.append(context.is_cancelled)
    else:
        asked.append(context.attempt)
    if "Retry" in broken:
        raise Retry(delay=1)
    if broken:
        raise ValueError("broken")
    asked.append("end")
    return context.attempt


def receipt_of(message: Message) -> Receipt[Any]:
    return receipts.receipt_of(message.receipt, stoppable.options)


@task(keep_result=A_DAY, max_attempts=1)
def secretive(number: int, password: str) -> None:
    raise ValueError(f"not with {number}")
