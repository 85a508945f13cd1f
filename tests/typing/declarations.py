"""What mypy must accept, and what it must refuse: each `type: ignore` is an error that
it found, since ones that nobody needs are errors themselves."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from typing import assert_type

from django.db.models import Model

from cloudtask import Backoff, Receipt, Task, call, current, task
from cloudtask.context import TaskContext
from cloudtask.decorators import BoundTask, TaskWithOptions
from cloudtask.iteration import Iteration
from tests.testapp.models import Author, Book


@task
def send(user: int, template: str = "plain") -> bool:
    return bool(user and template)


@task(queue="mail", small=True, timeout=timedelta(minutes=5), backoff=Backoff())
def optioned(user: int, *, subject: str) -> None: ...


@task(queue="mail", max_attempts=8, backoff=Backoff(min=1, max=600))
def send_receipt(order_id: int) -> None: ...


assert_type(Backoff(min=1).min, timedelta)
Backoff(min="1s")  # type: ignore[arg-type]


@task
async def fetch(url: str) -> bytes:
    return url.encode()


class Report:
    @task
    def render(self, pages: int) -> str:
        return "x" * pages

    @task
    async def arender(self, pages: int) -> str:
        return "x" * pages


# A plain call.

assert_type(send(1), bool)
assert_type(send(1, template="rich"), bool)
send()  # type: ignore[call-arg]
send("1")  # type: ignore[arg-type]
send(1, tmplate="rich")  # type: ignore[call-arg]

# Later.

assert_type(send.defer(1), Receipt[bool])
assert_type(send.defer(1, template="rich"), Receipt[bool])
assert_type(send.defer(1).result(timeout=5), bool)
send.defer()  # type: ignore[call-arg]
send.defer("1")  # type: ignore[arg-type]
send.defer(1, "rich", 3)  # type: ignore[call-arg]
send.defer(1, tmplate="rich")  # type: ignore[call-arg]
send.defer(1, queue="mail")  # type: ignore[call-arg]

optioned.defer(1, subject="hello")
optioned.defer(1)  # type: ignore[call-arg]
optioned.defer(1, "hello")  # type: ignore[call-arg]

assert_type(send, Task[[int, str], bool])  # type: ignore[assert-type]


async def asynchronously() -> None:
    assert_type(await send.adefer(1), Receipt[bool])
    assert_type(await fetch("https://app.example"), bytes)
    fetched = await fetch.adefer("https://app.example")
    assert_type(await fetched.aresult(), bytes)
    await send.adefer()  # type: ignore[call-arg]
    await fetch.adefer(1)  # type: ignore[arg-type]
    await send.using(countdown=5).adefer("1")  # type: ignore[arg-type]


# Options first, arguments last.

assert_type(send.using(countdown=60, queue="slow").defer(7), Receipt[bool])
send.using(eta=datetime.now(UTC), name="mine", unique=True).defer(7, "rich")
send.using(countdown=timedelta(minutes=1)).using(max_attempts=3).defer(7)
send.using(countdwon=60)  # type: ignore[call-arg]
send.using(countdown="60")  # type: ignore[arg-type]
send.using(queue=3)  # type: ignore[arg-type]
send.using(countdown=60).defer("7")  # type: ignore[arg-type]
send.using(countdown=60).defer()  # type: ignore[call-arg]


# Many calls.


@task
def measure(values: list[float], labels: dict[str, object] | None = None) -> None: ...


@task
def tidy() -> None: ...


many: list[Receipt[bool]] = send.defer_many([call(1), call(2, template="rich")])
send.defer_many(call(user, "rich") for user in range(3))
send.defer_many([call(user=1), call(2)])
mixed = [call(1), call(1, template="rich")]
send.defer_many(mixed)
measure.defer_many([call([1]), call([], None), call([1.5], {"a": 1})])
tidy.defer_many([call()])
send.defer_many([1, 2])  # type: ignore[list-item]
send.defer_many([call("a")])  # type: ignore[list-item]
send.defer_many([call(1), call("a")])  # type: ignore[list-item]
send.defer_many(call("a") for _ in range(3))  # type: ignore[misc]
send.defer_many([call(1, 2)])  # type: ignore[list-item]
send.defer_many([call()])  # type: ignore[list-item]
tidy.defer_many([call(1)])  # type: ignore[list-item]
wrongly = call("a")
send.defer_many([wrongly])  # type: ignore[list-item]
optioned.defer_many([call(1, subject="hello")])
send.using(queue="slow").defer_many([call("a")])  # type: ignore[list-item]


async def many_asynchronously() -> None:
    await send.adefer_many([call(1)])
    await send.adefer_many([call("a")])  # type: ignore[list-item]


# Rows.


@task
def rebuild(author: Author, dry_run: bool = False) -> None: ...


@task
def rebuild_any(row: Model) -> None: ...


@task
def rebuild_batch(authors: list[Author]) -> None: ...


@task
def report_rows(dry_run: bool = False) -> None: ...


authors = Author.objects.filter(name="x")
run = rebuild.iterate(authors, finalize=report_rows, args=(True,), shards=2)
assert_type(run, Iteration)
rebuild_any.iterate(authors)
rebuild_batch.iterate(authors, batch_size=100)
rebuild.iterate(Book.objects.all())  # type: ignore[arg-type]
rebuild.iterate(authors, batch_size=100)  # type: ignore[arg-type]
rebuild_batch.iterate(authors)  # type: ignore[arg-type]
rebuild.iterate(authors, finalize="report")  # type: ignore[arg-type]
rebuild.iterate(authors, shard=2)  # type: ignore[call-arg]
rebuild.iterate(authors, on_error="repeat")  # type: ignore[arg-type]
send.map([1, 2])
send.map(["a"])  # type: ignore[list-item]
send.using(queue="slow").map(["a"])  # type: ignore[list-item]
tidy.map([1])  # type: ignore[arg-type, misc]


async def numbers() -> AsyncIterator[int]:
    yield 1


async def rows_asynchronously() -> None:
    assert_type(await rebuild.aiterate(authors, finalize=report_rows), Iteration)
    await rebuild.aiterate(Book.objects.all())  # type: ignore[arg-type]
    assert_type(await send.amap(numbers()), Iteration)
    await send.amap(["a"])  # type: ignore[list-item]


# Methods.

report = Report()
assert_type(report.render(3), str)
assert_type(report.render.defer(3), Receipt[str])
assert_type(report.render.using(queue="slow").defer(3), Receipt[str])
assert_type(Report.render.defer(report, 3), Receipt[str])
report.render()  # type: ignore[call-arg]
report.render.defer()  # type: ignore[call-arg]
report.render.defer("3")  # type: ignore[arg-type]
report.render.defer(report, 3)  # type: ignore[call-arg, arg-type]
report.render.using(queue="slow").defer("3")  # type: ignore[arg-type]
Report.render.defer(3)  # type: ignore[call-arg, arg-type]
bound: BoundTask[[int], str] = report.render
wrong: BoundTask[[str], str] = report.render  # type: ignore[assignment]
chosen: TaskWithOptions[[int], str] = report.render.using(queue="slow")

# Declarations.


@task(qeue="mail")  # type: ignore[call-overload, untyped-decorator]
def misspelt() -> None: ...


@task(queue=7)  # type: ignore[call-overload, untyped-decorator]
def mistyped() -> None: ...


@task(countdown=5)  # type: ignore[call-overload, untyped-decorator]
def misplaced() -> None: ...


def wait(error: BaseException, context: TaskContext) -> float | None:
    return None if context.is_last_attempt else 5.0


@task(backoff=wait, unique=lambda user: user)
def patient(user: int) -> None:
    context = current()
    assert_type(context, TaskContext | None)
    assert_type(current(required=True), TaskContext)
    print(context.attempt)  # type: ignore[union-attr]


def wrong_wait(error: BaseException) -> float:
    return 5.0


@task(backoff=wrong_wait)  # type: ignore[arg-type]
def impatient() -> None: ...


# A task is a callable like any other.

plain: Callable[[int, str], bool] = send
other: Callable[[str], bool] = send  # type: ignore[assignment]
