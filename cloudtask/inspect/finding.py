"""Finds one call by its id, wherever it is.

A call is looked for where it may be last, first: a result, a failed task, the record of
an execution, then an outbox row and a task of a queue. It may end between two of these
looks, so a call that is nowhere is looked for once more among those that have ended.
The id of a chain or a group is that of its last step. Before that step there is none of
this id, so its first steps are looked for.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import Any

from django.db.models import Q

from cloudtask import clock, envelope, registry
from cloudtask.chains.failure import failure_of
from cloudtask.chains.kept import WHOLE
from cloudtask.chains.rest import id_of, unsealed
from cloudtask.delivering import failed
from cloudtask.exceptions import PayloadError, TaskNotFound
from cloudtask.inspect.ended import (
    executed,
    failed_task,
    of_failed,
    of_result,
    result_of,
)
from cloudtask.inspect.marked import with_cancel
from cloudtask.inspect.values import CallState, FoundCall, Located, stripped
from cloudtask.message import Message
from cloudtask.queues import listing
from cloudtask.sending import on_commit, relay, table, waiting
from cloudtask.stores import store
from cloudtask.stores.results import ResultState
from cloudtask.stores.transactions import is_undecided
from cloudtask.transports import memory

RETRIES = 5  # names of tasks that a Retry has made which are tried
STEPS = 10  # first steps of a chain that are looked for

_ID = re.compile(r"([0-9a-f]{32})(-\d+)?")  # of a call, or the key of one that repeats


Look = Callable[[str], Located | None]


def located(text: str, *, full: bool) -> Located:
    """The call with an id; its state is UNKNOWN if there is nothing of it."""
    text = stripped(text)
    match = _ID.fullmatch(text)
    key = match[1] if match else text
    if not key or "\0" in key:  # which no database takes
        return Located(FoundCall(id=key, state=CallState.UNKNOWN))
    in_queue = partial(_in_queue, full=full)
    steps = partial(_of_steps, full=full)
    around = partial(_around_group, full=full)
    looks: tuple[Look, ...] = (_ended, _in_outbox, in_queue, _ended, steps, around)
    for look in looks:
        if (found := look(key)) is not None:
            return _with_cancel(found)
    return _with_cancel(Located(FoundCall(id=key, state=CallState.UNKNOWN)))


def _with_cancel(one: Located) -> Located:
    """The same, with what is known of a cancel."""
    return replace(one, found=with_cancel(one.found, one.message))


# Calls that have ended


def _ended(key: str) -> Located | None:
    result = result_of(key)
    if result is not None and result.state is ResultState.SUCCEEDED:
        return Located(of_result(result))
    if (kept := failed_task(key)) is not None:
        return of_failed(kept)
    if result is None:
        return executed(key)
    if result.task != WHOLE:
        return Located(of_result(result))
    told = Located(of_result(result), is_chain=True)
    return _as_chain(key, _failed_step(_steps(key))) or told


# Calls that wait for a commit, or in the outbox


def _in_outbox(key: str) -> Located | None:
    return _row(Q(pk=key) | Q(pk__startswith=f"{key}-"), lambda one: one.id == key)


def _row(meant: Q, is_meant: Callable[[Message], bool]) -> Located | None:
    for alias in waiting.aliases():
        own = [one for one in on_commit.uncommitted(alias) if is_meant(one)]
        if own:
            return _uncommitted(own[0], alias)
        row = table.rows_of(alias).filter(meant).order_by("created_at").first()
        if row is not None:
            return _of_row(row, alias)
    return None


def _uncommitted(message: Message, alias: str) -> Located:
    """A call of the open transaction. That of a TestCase counts as committed."""
    waits = is_undecided(alias)
    state = CallState.AWAITS_COMMIT if waits else CallState.QUEUED
    return _of_message(message, state, database=alias)


def _of_row(row: Any, alias: str) -> Located:
    is_parked = row.state == row.State.PARKED
    state = CallState.PARKED if is_parked else CallState.OUTBOX
    told = {"database": alias, "tries": row.attempts, "error": row.error}
    try:
        return _of_message(relay.opened(row), state, **told)
    except PayloadError:  # it was altered, or sealed with a key that is gone
        key = row.key.partition("-")[0]
        found = FoundCall(id=key, state=state, task=row.task, queue=row.queue, **told)
        return Located(found)


def _of_message(message: Message, state: CallState, **told: Any) -> Located:
    due = message.eta
    values = {
        "task": message.task,
        "queue": message.queue,
        "name": message.name,
        "due_at": datetime.fromtimestamp(due, UTC) if due else None,
        "enqueued_at": datetime.fromtimestamp(message.created, UTC),
        "arguments": _arguments(message),
        **told,
    }
    found = FoundCall(id=message.id, state=state, chain=message.whole, **values)
    return Located(found, message)


def _arguments(message: Message) -> str:
    """The arguments as text, masked as those of failed tasks are."""
    try:
        return failed.described(message, registry.find(message.task))
    except TaskNotFound:
        return "<arguments of an unknown task>"


def as_if_committed(queue: str) -> Iterator[listing.WaitingTask]:
    """Tasks of a queue that wait for a commit which a TestCase never makes."""
    if not listing.is_in_memory():
        return
    for alias in waiting.aliases():
        if not is_undecided(alias):
            for message in on_commit.uncommitted(alias):
                if message.queue == queue:
                    yield listing.of_message(message)


# Calls in a queue


def _in_queue(key: str, *, full: bool) -> Located | None:
    if listing.is_in_memory():
        return _in_memory(lambda message: message.id == key or message.name == key)
    names = (key, *(f"{key}-{number}" for number in range(1, RETRIES + 1)))
    return _task(key, names, full=full)


def _in_memory(is_meant: Callable[[Message], bool]) -> Located | None:
    running = memory.queue().running
    for entry in (*([running] if running else []), *memory.queue()):
        if is_meant(entry.message):
            state = CallState.DISPATCHED if entry is running else CallState.QUEUED
            return _of_message(entry.message, state, tries=entry.delivery.retries)
    return None


def _task(key: str, names: tuple[str, ...], *, full: bool) -> Located | None:
    """The first task with one of these names, in whatever queue of the project."""
    for name in names:
        for queue in listing.used() or ["default"]:
            task = listing.find_task(queue, name, full=full)
            if task is not None:
                return _of_task(key, task)
    return None


def _of_task(key: str, task: listing.WaitingTask) -> Located:
    state = CallState.DISPATCHED if task.is_running else CallState.QUEUED
    told: dict[str, Any] = {
        "queue": task.queue,
        "name": task.name,
        "tries": task.tries,
        "due_at": task.due_at,
        "enqueued_at": task.created_at,
        "error": task.answer,
    }
    if task.body:
        try:
            message = envelope.unseal(task.body, now=clock.now())
            return _of_message(message, state, **told)
        except PayloadError:
            pass  # another program made the task, or its envelope has expired
    return Located(FoundCall(id=key, state=state, task=task.task, **told))


# Chains and groups


def _of_steps(key: str, *, full: bool) -> Located | None:
    """The step of a chain that waits, among its first ones.

    A step that has failed keeps the others from running.
    """
    if not _ID.fullmatch(key):
        return None
    steps = _steps(key)
    found = _row(Q(pk__in=steps), lambda one: one.whole == key)
    if found is None and listing.is_in_memory():
        found = _in_memory(lambda one: one.whole == key)
    elif found is None:
        found = _task(key, steps, full=full)
    return _as_chain(key, found or _failed_step(steps) or _group(steps))


def _steps(key: str) -> tuple[str, ...]:
    """The ids of the first steps of a chain."""
    return tuple(id_of(key, place) for place in range(STEPS))


def _as_chain(key: str, found: Located | None) -> Located | None:
    """The step that was found, as the state of its chain."""
    if found is None:
        return None
    called = replace(found.found, id=key, step=found.found.id, chain=key)
    return Located(called, found.message, is_chain=True)


def _failed_step(steps: tuple[str, ...]) -> Located | None:
    kept = next(filter(None, map(failed_task, steps)), None)
    if kept is not None:
        return of_failed(kept)
    return next(filter(None, map(_failed_member, steps)), None)


def _failed_member(step: str) -> Located | None:
    """The first failed member of a group that has failed by it, however deep.

    A partial group takes a failure as a value, so it has not failed.
    """
    group = store().load_group(step)
    if group is None or group.is_done or group.is_partial:
        return None
    for member in store().load_failed_members(step):
        try:
            _, key, _ = failure_of(step, member)
        except PayloadError:  # it was altered
            continue
        if key and (kept := store().load_failed(key)) is not None:
            return of_failed(kept)
    return None


def _around_group(key: str, *, full: bool) -> Located | None:
    """The chain that a group belongs to, by the id that lists of groups show."""
    group = store().load_group(key)
    if group is None:
        return None
    try:
        total, is_partial = group.total, group.is_partial
        rest = unsealed(group.rest, key, total, is_partial=is_partial)
    except PayloadError:  # it was altered
        return None
    whole = rest.root or rest.chain
    return _of_steps(whole, full=full) or _as_chain(whole, _group((key,)))


def _group(steps: tuple[str, ...]) -> Located | None:
    """The group that is a step of a chain, while its members are called."""
    for step in steps:
        group = store().load_group(step)
        if group is not None and not group.is_done:
            has_begun = store().count_members(step) > 0
            state = CallState.DISPATCHED if has_begun else CallState.QUEUED
            return Located(FoundCall(id=step, state=state))
    return None
