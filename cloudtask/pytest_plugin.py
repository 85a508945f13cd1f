"""Gives pytest a clean queue for every test, fixtures, and a strict mode.

It imports the rest of the library late, because projects without Django settings also
load this plugin.
"""

from __future__ import annotations

import sys
import unittest
from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from cloudtask.testing import Report
    from cloudtask.testruns.mixin import TaskQueue

STRICT = "cloudtask_strict"


def pytest_addoption(parser: pytest.Parser) -> None:
    help = "Fail each test that leaves tasks of cloudtask queued that never ran."
    group = parser.getgroup("cloudtask")
    group.addoption("--cloudtask-strict", action="store_true", default=False, help=help)
    parser.addini(STRICT, help, type="bool", default=False)


@pytest.fixture(autouse=True)
def _cloudtask_clean_queue() -> Generator[None]:
    """Empty the queue before and after each test."""
    _start_test()
    yield
    _start_test()


def _start_test() -> None:
    # Looked up, not imported: a test that never enqueues needs no Django.
    memory = sys.modules.get("cloudtask.transports.memory")
    if memory is not None:
        memory.start_test(is_told=True)


@pytest.fixture
def cloudtask_queue() -> TaskQueue:
    """The queue of the test: a sequence of QueuedTask, with `clear()`."""
    from cloudtask.testruns.mixin import TaskQueue

    return TaskQueue()


@pytest.fixture
def run_queued() -> Callable[..., Report]:
    """`cloudtask.testing.run_queued`."""
    from cloudtask.testing import run_queued

    return run_queued


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, Any, Any]:
    """Check for tasks left queued while the test's transaction is still open."""
    strict = item.config.getoption("--cloudtask-strict") or item.config.getini(STRICT)
    case = getattr(item, "instance", None)
    if strict and isinstance(case, unittest.TestCase):
        # The first cleanup runs last; after it the transaction is closed.
        case.addCleanup(_refuse_leftovers)
        return (yield)
    result = yield
    if strict:
        _refuse_leftovers()
    return result


def _refuse_leftovers() -> None:
    if "cloudtask.transports.memory" in sys.modules:
        from cloudtask.testruns.mixin import refuse_leftovers

        refuse_leftovers()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add to a failure the faults and seeds with which tasks were delivered."""
    report = yield
    memory = sys.modules.get("cloudtask.transports.memory")
    if memory is not None and report.when == "call" and report.failed:
        lines = memory.queue().misfortunes
        if lines:
            report.sections.append(("cloudtask faults", "\n".join(lines)))
    return report
