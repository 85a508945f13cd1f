"""Fixtures and hooks for all tests."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from typing import Any

import pytest
from django.db import connections

from tests.support import clock
from tests.support.site import site
from tests.testapp import tasks

__all__ = ["site"]

# Here, since pytest takes plugins from the topmost conftest only.
pytest_plugins = [
    "tests.support.emulators",
    "tests.support.marking",
    "tests.stores.datastore_fixtures",
    "tests.support.entities",
    "tests.support.sampling",
]


@pytest.fixture(scope="session")
def django_db_setup(django_db_setup: None, django_db_blocker: Any) -> Iterator[None]:
    """End what is still connected to the databases of the tests before they go.

    PostgreSQL drops no database that a thread of a test has left a connection to. A run
    whose tests need one database makes no other: a connection to that one leads to the
    database of the server, to which other runs are connected.
    """
    yield
    with django_db_blocker.unblock():
        for connection in connections.all(initialized_only=True):
            if connection.vendor == "postgresql":
                with connection.cursor() as cursor:
                    cursor.execute(END_OTHERS)


END_OTHERS = """
    SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE datname = current_database() AND starts_with(datname, 'test_')
    AND pid <> pg_backend_pid()
"""


@pytest.fixture(autouse=True)
def _no_calls() -> Iterator[None]:
    """Forget the notes of the test application's tasks before and after each test."""
    tasks.calls.clear()
    tasks.Bomb.decoded.clear()
    yield
    tasks.calls.clear()


@pytest.fixture(autouse=True)
def _same_clock() -> Iterator[None]:
    """Put the clock back that a test has moved."""
    with clock.put_back():
        yield


@pytest.hookimpl(wrapper=True)
def pytest_report_to_serializable() -> Generator[None, Any, Any]:
    """Some tests log text that is no Unicode, which a worker process can't send."""
    return _encodable((yield))


def _encodable(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, dict):
        return {key: _encodable(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(_encodable, value))
    return value
