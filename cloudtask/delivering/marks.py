"""Marks that a call begins which others may keep from it.

A call with the option `cancellable` looks for a cancel, and a step for one of its
chain. A call of a schedule with `overlap="skip"` looks for an earlier call.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from functools import partial

from cloudtask.chains import cancelled
from cloudtask.message import Message
from cloudtask.stores import AlreadyDone, CallCancelled, CallSkipped, store
from cloudtask.stores.schedules import ScheduleStore
from cloudtask.stores.transactions import is_relational
from cloudtask.targets import target

MARGIN = timedelta(seconds=30)  # after the deadline, for the answer to arrive


def is_marked(message: Message) -> bool:
    """Whether deliveries of the call mark in the store that it begins.

    An atomic call has the record of its execution in place of a mark.
    """
    return message.options.cancellable and not message.options.atomic


def refusal_of(message: Message) -> AlreadyDone | None:
    """Mark that the call begins; returns an error if it must not.

    Raises EnqueueUnavailable when the store can't be reached.
    """
    if is_marked(message) and not store().begin_call(message.id):
        return CallCancelled(message.id)
    if message.chain is not None and not cancelled.goes_on(message):
        return CallCancelled(message.id)
    if message.alone and not _begins_alone(message, timedelta(0)):
        return CallSkipped(message.id)
    return None


def cancellation_of(message: Message) -> Callable[[], bool] | None:
    """A function that tells whether the call was cancelled, if it can be."""
    if message.chain is None and not is_marked(message):
        return None
    return partial(_is_cancelled, message)


def _is_cancelled(message: Message) -> bool:
    if is_marked(message) and store().is_cancelled(message.id):
        return True
    return cancelled.is_cancelled(message)


# Calls of schedules that must not overlap


def schedules_in(alias: str) -> ScheduleStore:
    """Where the schedules of tasks with this database are kept."""
    if not is_relational(alias):
        return store()
    from cloudtask.stores.database.schedules import SchedulesIn

    return SchedulesIn(alias)


def _begins_alone(message: Message, wait: timedelta) -> bool:
    """Reserve the schedule for the call: for `wait`, and then as long as it may run."""
    timeout = message.options.timeout or timedelta(seconds=target().default_deadline)
    kept = schedules_in(message.options.database)
    longest = wait + timeout + MARGIN
    return kept.begin_occurrence(str(message.schedule), message.id, longest)


def keep_alone(message: Message, wait: timedelta) -> None:
    """Let a call that is tried again after `wait` keep its schedule."""
    _begins_alone(message, wait)


def end_alone(message: Message) -> None:
    """Let the next call of the schedule begin."""
    kept = schedules_in(message.options.database)
    kept.end_occurrence(str(message.schedule), message.id)
