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
UNTRIED = pytest.StashKey[str]()  # what a failed test is told of calls not run


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
    memory = _memory()
    if memory is not None:
        memory.start_test(is_told=True)


def _memory() -> Any:
    # Looked up, not imported: a test that never enqueues needs no Django.
    return sys.modules.get("cloudtask.transports.memory")


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
    if isinstance(case, unittest.TestCase):
        # The first cleanup runs last; after it the transaction is closed.
        if strict:
            case.addCleanup(_refuse_leftovers)
        case.addCleanup(_note_untried_of_case, item)
        return (yield)
    try:
        result = yield
    except (Exception, pytest.fail.Exception) as error:
        _note_untried(item, error)
        raise
    if strict:
        _refuse_leftovers()
    return result


def _refuse_leftovers() -> None:
    if _memory() is not None:
        from cloudtask.testruns.mixin import refuse_leftovers

        refuse_leftovers()


def _note_untried_of_case(item: Any) -> None:
    # pytest keeps the failures of a TestCase here until it makes the report.
    for failure in getattr(item, "_excinfo", None) or ():
        _note_untried(item, failure.value)


def _note_untried(item: pytest.Item, error: BaseException) -> None:
    if _memory() is not None:
        from cloudtask.testruns.mixin import told_of_untried

        item.stash[UNTRIED] = told_of_untried(error)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Add to a failure what the queue knows of it: its faults, and calls not run."""
    report = yield
    memory = _memory()
    if memory is not None and report.when == "call" and report.failed:
        if lines := memory.queue().misfortunes:
            report.sections.append(("cloudtask faults", "\n".join(lines)))
        if told := item.stash.get(UNTRIED, ""):
            report.sections.append(("cloudtask", told))
    return report
