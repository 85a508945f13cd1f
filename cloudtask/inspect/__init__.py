"""Looks at what waits, runs and has ended: in production and in tests alike.

`find(id)` says where one call is. The others list queues, their tasks, the outbox,
failed tasks and schedules. All values are frozen, and hold no secret: arguments are
masked. Lists are read page by page, so a long one takes no more memory than a short
one. Asynchronous code writes `afind`, `aqueues` and so on, which return lists.

QueuesUnknown is raised if the service gives no answer, or the account of this process
lacks a right. Its text names the right, and a role that has it.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain, islice

from asgiref.sync import sync_to_async

from cloudtask.discretion import discreet, discreetly
from cloudtask.inspect import finding
from cloudtask.inspect.values import CallState, FoundCall
from cloudtask.queues import ActualQueue, QueuesUnknown, listing
from cloudtask.queues.listing import QueueStats, WaitingTask
from cloudtask.schedules.listed import ListedSchedule, listed
from cloudtask.sending import waiting
from cloudtask.sending.waiting import WaitingRow
from cloudtask.stores import FailedCall, store

__all__ = [
    "ActualQueue",
    "CallState",
    "FailedCall",
    "FoundCall",
    "ListedSchedule",
    "QueueStats",
    "QueuesUnknown",
    "WaitingRow",
    "WaitingTask",
    "afailed",
    "afind",
    "aoutbox",
    "aqueues",
    "aschedules",
    "astats",
    "atasks",
    "failed",
    "find",
    "outbox",
    "queues",
    "schedules",
    "stats",
    "tasks",
]

PAGE = 100  # rows that are read at once


@discreet
def find(call_id: str, *, full: bool = False) -> FoundCall:
    """Where a call is, by the id that its receipt has; of a chain, its current step.

    Looks for a result, a failed task, an execution, an outbox row and a task in the
    queues, in this order, and then once more for how it ended. `full` also reads the
    arguments of a task in a queue, for which the service asks another right. Raises
    QueuesUnknown, and EnqueueUnavailable if a store can't be reached.
    """
    return finding.located(call_id, full=full).found


@discreet
def queues() -> list[ActualQueue]:
    """The queues of the location; in a test those that the project uses. Raises
    QueuesUnknown."""
    return listing.all_queues()


@discreet
def stats(queue: str) -> QueueStats:
    """The work of a queue, as the service estimates it; raises QueuesUnknown."""
    return listing.stats_of(queue)


@discreet
def tasks(queue: str, *, limit: int | None = 100) -> Iterator[WaitingTask]:
    """Tasks of a queue, in no order; None lists all. Raises QueuesUnknown.

    The service bills each 1,000 of them as an operation. In a test the calls are there
    that only wait for a commit which the test never makes.
    """
    found = listing.tasks_of(queue, limit=limit)
    return discreetly(islice(chain(finding.as_if_committed(queue), found), limit))


@discreet
def outbox(*, limit: int | None = 100) -> Iterator[WaitingRow]:
    """Rows of all outboxes: the parked ones first, then the oldest first."""
    return discreetly(islice(_rows(), limit))


def _rows() -> Iterator[WaitingRow]:
    for alias in waiting.aliases():
        for parked in (True, False):
            after, is_more = None, True
            while is_more:
                page = waiting.page(alias, parked=parked, after=after, limit=PAGE)
                yield from page.items
                after, is_more = page.next, page.next is not None


@discreet
def failed(*, limit: int | None = 100) -> Iterator[FailedCall]:
    """Failed tasks in brief, the latest first."""
    return discreetly(islice(_failed(), limit))


def _failed() -> Iterator[FailedCall]:
    before, is_more = None, True
    while is_more:
        page = store().page_failed(before=before, limit=PAGE)
        yield from page.items
        before, is_more = page.next, page.next is not None


@discreet
def schedules() -> list[ListedSchedule]:
    """The declared schedules, and how far each one is."""
    return listed()


# Asynchronous code. Each does what the function without the "a" does.


@discreet
async def afind(call_id: str, *, full: bool = False) -> FoundCall:
    """As `find`, for asynchronous code."""
    return await sync_to_async(find)(call_id, full=full)


@discreet
async def aqueues() -> list[ActualQueue]:
    """As `queues`, for asynchronous code."""
    return await sync_to_async(queues)()


@discreet
async def astats(queue: str) -> QueueStats:
    """As `stats`, for asynchronous code."""
    return await sync_to_async(stats)(queue)


@discreet
async def atasks(queue: str, *, limit: int = 100) -> list[WaitingTask]:
    """As `tasks`, for asynchronous code."""
    return await sync_to_async(lambda: [*tasks(queue, limit=limit)])()


@discreet
async def aoutbox(*, limit: int = 100) -> list[WaitingRow]:
    """As `outbox`, for asynchronous code."""
    return await sync_to_async(lambda: [*outbox(limit=limit)])()


@discreet
async def afailed(*, limit: int = 100) -> list[FailedCall]:
    """As `failed`, for asynchronous code."""
    return await sync_to_async(lambda: [*failed(limit=limit)])()


@discreet
async def aschedules() -> list[ListedSchedule]:
    """As `schedules`, for asynchronous code."""
    return await sync_to_async(schedules)()
