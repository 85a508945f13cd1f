from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.testapp.models import Book
from tests.testing import tasks


@pytest.fixture(autouse=True)
def _nothing_seen() -> Iterator[None]:
    tasks.seen.clear()
    yield
    tasks.seen.clear()


@pytest.fixture
def account(db: None) -> Book:
    return Book.objects.create(title="account", pages=0)


def balance(book: Book) -> int:
    book.refresh_from_db()
    return book.pages
