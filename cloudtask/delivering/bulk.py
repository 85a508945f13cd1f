"""Retries or discards many failed tasks: here and now, or as tasks of the library.

One failed task that can't be retried keeps no other back. All of it is safe to repeat.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Any

from cloudtask import clock, failpoints, registry
from cloudtask.delivering import failed
from cloudtask.exceptions import CloudTaskError
from cloudtask.message import Enqueued
from cloudtask.options import Options
from cloudtask.registry import Definition
from cloudtask.sending import enqueueing
from cloudtask.stores import FailedCall, store
from cloudtask.stores.failed import FailedFilter

PAGE = 100  # failed tasks of one task of the library, and of one read

# The names of the tasks rest in queues, so they follow from no place in the code.
RETRY = "cloudtask.retry_failed"
DISCARD = "cloudtask.discard_failed"

logger = logging.getLogger("cloudtask")


@dataclass(frozen=True, slots=True)
class BulkReport:
    """The results for many failed tasks: `problems` are pairs of key and error."""

    done: int = 0
    problems: tuple[tuple[str, str], ...] = ()


def until_now(wanted: FailedFilter) -> FailedFilter:
    """The filter, without calls that fail from now on."""
    now = datetime.fromtimestamp(clock.now(), UTC)
    return wanted if wanted.until is not None else replace(wanted, until=now)


def each(wanted: FailedFilter) -> Iterator[FailedCall]:
    """All failed calls of a filter in brief, newest first, read page by page."""
    mark = None
    while True:
        page = store().page_failed(wanted, before=mark, limit=PAGE)
        yield from page.items
        if (mark := page.next) is None:
            return


def retry(key: str) -> str:
    """Enqueue one failed task again; returns what was done.

    Raises as `failed.retry`.
    """
    return f"enqueued again as {failed.retry(key).name}"


def discard(key: str) -> str:
    """Delete one failed task; raises CloudTaskError if there is none."""
    if not failed.discard(key):
        raise CloudTaskError(f"There is no failed task {key!r}.")
    return "discarded"


def act_on(keys: Iterable[str], act: Callable[[str], str]) -> BulkReport:
    """Call `act` for each key, whatever became of those before it."""
    report = BulkReport()
    for key in keys:
        try:
            act(key)
        except CloudTaskError as error:
            report = replace(report, problems=(*report.problems, (key, str(error))))
        else:
            report = replace(report, done=report.done + 1)
    return report


# As tasks of the library, one for each page.


def enqueue(name: str, wanted: FailedFilter) -> Enqueued:
    """Enqueue RETRY or DISCARD for all failed tasks of a filter, which must have an
    `until`; raises EnqueueError."""
    return _enqueue_page(name, asdict(wanted), None)


def _enqueue_page(name: str, wanted: dict[str, Any], mark: str | None) -> Enqueued:
    definition = registry.find(name)
    return enqueueing.enqueue(definition, definition.options, (wanted, mark), {})


def _page_task(name: str, act: Callable[[str], str]) -> None:
    def run_page(wanted: dict[str, Any], mark: str | None = None) -> None:
        chosen = FailedFilter(**wanted)
        page = store().page_failed(chosen, before=mark, limit=PAGE)
        report = act_on([call.key for call in page.items], act)
        failpoints.reached("bulk.page_done")
        if page.next is not None:
            _enqueue_page(name, wanted, page.next)
        logger.info("%s: %s done, %s not done", name, report.done, len(report.problems))
        for key, problem in report.problems:
            logger.warning("%s: %s: %s", name, key, problem)

    registry.register(Definition(name, run_page, Options()))


_page_task(RETRY, retry)
_page_task(DISCARD, discard)
