"""Tasks that behave in the ways which `cloudtask.testing` tells apart."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from django.db import transaction
from django.db.models import F
from django.utils import timezone

from cloudtask import Backoff, Retry, SingularTaskFailure, current, task
from cloudtask.clock import now
from tests.testapp.models import Author, Book

seen: list[Any] = []


@task
def see(*args, **kwargs):
    seen.append((args, kwargs))
    return args


@task(small=True)
def tick(mark=None):
    seen.append((mark, current().attempt, now()))


@task(queue="mail")
def mail(user_id: int, template: str = "plain", *, copies: int = 1) -> None:
    seen.append(("mail", user_id, template, copies))


class Trouble(Exception):
    pass


@task(backoff=Backoff(min=10, max=300, doublings=3), max_attempts=5)
def stumble(times: int) -> str:
    """Fails so many times, then succeeds."""
    tick.__wrapped__("stumble")
    if current().attempt <= times:
        raise Trouble(f"attempt {current().attempt}")
    return "done"


def slower(error, context):
    return timedelta(minutes=context.attempt)


@task(backoff=slower, max_attempts=4)
def choose_delays() -> None:
    tick.__wrapped__("choose_delays")
    raise Trouble("always")


@task
def ask_again(times: int, delay: float = 60) -> None:
    tick.__wrapped__("ask_again")
    if current().attempt <= times:
        raise Retry(delay=delay)


@task
def fail(text: str = "broken") -> None:
    raise Trouble(text)


@task
def ping() -> None:
    pong.defer()


@task
def pong() -> None:
    ping.defer()


@task
def fan_out(count: int) -> None:
    see.defer_many([_call(number) for number in range(count)])


@task
def remind(minutes: float) -> None:
    tick.using(countdown=minutes * 60).defer("reminder")


@task
def tell_time() -> None:
    seen.append((timezone.now(), current().eta))


@task
async def asynchronous(value: object) -> None:
    seen.append(("async", value))


@task
async def asynchronous_author(name: str) -> None:
    await Author.objects.acreate(name=name)


@task
def see_context() -> None:
    seen.append(current())


# Accounts are books, their balance is `pages`.


@task
def pay(book_id: int, amount: int) -> None:
    """Not idempotent: a second delivery pays again."""
    Book.objects.filter(pk=book_id).update(pages=F("pages") + amount)


@task
def pay_slowly(book_id: int, amount: int) -> None:
    """Loses an update when two run at once."""
    book = Book.objects.get(pk=book_id)
    if book.data.get("paid"):
        return
    Book.objects.filter(pk=book_id).update(pages=F("pages") + amount)
    Book.objects.filter(pk=book_id).update(data={"paid": True})


@task(atomic=True)
def pay_once(book_id: int, amount: int) -> None:
    """Runs once, by the record that commits with it."""
    Book.objects.filter(pk=book_id).update(pages=F("pages") + amount)


@task
def set_balance(book_id: int, amount: int) -> None:
    """Idempotent by itself."""
    Book.objects.filter(pk=book_id).update(pages=amount)


@task
def open_account(title: str) -> None:
    """Makes a row, once; and stamps it."""
    with transaction.atomic():
        book, _ = Book.objects.get_or_create(title=title)
        Book.objects.filter(pk=book.pk).update(published=timezone.now())


@task
def open_accounts(*titles: str) -> None:
    """Makes rows that refer to one another, each time anew."""
    for title in titles:
        author = Author.objects.create(name=title)
        Book.objects.create(title=title, author=author)


@task
def pass_on(book_id: int, amount: int) -> None:
    """The call that it enqueues is not idempotent, so it is not."""
    with transaction.atomic():
        Book.objects.filter(pk=book_id).update(title="passed on")
        pay.defer(book_id, amount)


@task
def pass_on_once(book_id: int, amount: int) -> None:
    with transaction.atomic():
        Book.objects.filter(pk=book_id).update(title="passed on")
        pay_once.using(name=f"pay-{book_id}").defer(book_id, amount)


@task
def tell(name: str) -> None:
    """Enqueues outside of any transaction."""
    see.using(transactional=False).defer(name)


@task
def defer_by_name(*names: str) -> None:
    with transaction.atomic():
        for name in names:
            see.using(name=name).defer(name)


@task
def in_the_other(name: str) -> None:
    Author.objects.using("other").create(name=name)


def _call(*args):
    from cloudtask import call

    return call(*args)


@task
def nest() -> None:
    from cloudtask.testing import run_queued

    run_queued(see, until=0)


@task
def pay_unless_succeeded(book_id: int, amount: int) -> None:
    """Safe if it is delivered twice, but not if its process is killed in between."""
    book = Book.objects.get(pk=book_id)
    if book.data.get("receipt"):
        return
    Book.objects.filter(pk=book_id).update(pages=F("pages") + amount)
    note_receipt.using(transactional=False).defer(book_id)


@task
def note_receipt(book_id: int) -> None:
    Book.objects.filter(pk=book_id).update(data={"receipt": True})


@task
def ask_a_stranger() -> None:
    seen.append(ask_a_stranger.strange())


@task
def add_author(name: str) -> None:
    Author.objects.create(name=name)


@task
def wait_for_the_other() -> None:
    if current().attempt == 1:
        raise SingularTaskFailure("The other one has the lease.")
