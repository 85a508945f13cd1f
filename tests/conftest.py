from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.site import site
from tests.testapp import tasks

__all__ = ["site"]

# Here, since pytest takes plugins from the topmost conftest only.
pytest_plugins = ["tests.stores.datastore_fixtures"]


@pytest.fixture(autouse=True)
def _no_calls() -> Iterator[None]:
    """Forget the notes of the test application's tasks before and after each test."""
    tasks.calls.clear()
    tasks.Bomb.decoded.clear()
    yield
    tasks.calls.clear()
