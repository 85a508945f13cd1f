"""A small library, whose tasks the manual tests."""

from __future__ import annotations

from django.db import transaction
from django.db.models import F
from django.utils import timezone

from cloudtask import Backoff, current, task
from tests.testapp.models import Author, Book, Label


@task(queue="mail", small=True)
def send_welcome(name: str, template: str = "plain") -> None:
    """The letters of this library are labels on its books."""
    Label.objects.create(name=f"Welcome, {name}")


def sign_up(name: str) -> Author:
    with transaction.atomic():
        author = Author.objects.create(name=name)
        send_welcome.defer(name, template="rich")
        remind.using(countdown=3600).defer(author.pk)
    return author


@task
def remind(author_id: int) -> None:
    author = Author.objects.get(pk=author_id)
    author.name += f", reminded at {timezone.now():%H:%M}"
    author.save()


@task(backoff=Backoff(min=10, max=300, doublings=3), max_attempts=5)
def fetch_cover(book_id: int) -> None:
    """The service of covers is down for the first four attempts."""
    if current().attempt < 5:
        raise ConnectionError("The covers are not to be had.")
    Book.objects.filter(pk=book_id).update(data={"cover": "green"})


@task
def count_page(book_id: int) -> None:
    """Wrong: Cloud Tasks may deliver a call twice."""
    Book.objects.filter(pk=book_id).update(pages=F("pages") + 1)


@task(atomic=True)
def count_page_once(book_id: int) -> None:
    """Right: what it writes commits together with the record that it ran."""
    Book.objects.filter(pk=book_id).update(pages=F("pages") + 1)


@task
def tidy_for_ever() -> None:
    tidy_for_ever.defer()
