"""The pytest plugin: a clean queue for every test."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def _cloudtask_clean_queue() -> Iterator[None]:
    """Nothing of one test is left for the next."""
    _clear()
    yield
    _clear()


def _clear() -> None:
    # Looked up, not imported: projects without Django settings load this plugin too.
    memory = sys.modules.get("cloudtask.transports.memory")
    if memory is not None:
        memory.queue().clear()
