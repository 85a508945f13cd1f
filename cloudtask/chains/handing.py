"""Hands the value of a call to what follows: the next step, or the group.

A chain is in these states. Each line says what a crash leaves there. A redelivery of
the call then does what is missing.

    called     a plain call: its effects           the function runs again
               an atomic call: nothing             the function runs
    handed     the next message or outbox row      the same name again: the first value
                                                   stays
    settled    the payload is deleted              nothing

A member of a group writes its value. Then it decides whether it was the last one:

    written    the value of the member             it decides again
    decided    `then` in the queue                 the same name again
    finished   the group is marked as done         nothing

Two last members may both find all values written. They send `then` under one name.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import groupby

from cloudtask import clock, codec, envelope, failpoints, quotas, registry, signals
from cloudtask.chains import steps
from cloudtask.chains.rest import EMPTY_LIST, Rest, id_of, sealed, unsealed
from cloudtask.chains.steps import CallStep
from cloudtask.exceptions import BadSignature, EnqueueError, PayloadTooLarge
from cloudtask.message import Message
from cloudtask.options import Options
from cloudtask.registry import Definition
from cloudtask.sending import enqueueing, outbox, payloads
from cloudtask.stores import store
from cloudtask.stores.groups import StoredGroup, member_place
from cloudtask.stores.results import ResultState, StoredResult, result_place

logger = logging.getLogger("cloudtask")

HAND_ON = "cloudtask.hand_on"
WHOLE = "chain"  # the task of the result that a chain or a group has as a whole


def _hand_on(value: object) -> object:
    """Hand a value to what follows on an atomic call, once that has committed."""
    return value


registry.register(Definition(HAND_ON, _hand_on, Options()))


# After a plain call


def hand_over(rest: Rest, value: bytes) -> None:
    """Make durable what follows on the encoded `value`.

    Raises EnqueueUnavailable if neither Cloud Tasks nor the outbox can be reached.
    """
    failpoints.reached("chain.before_next")
    if rest.is_over:
        _end(rest, value)
    else:
        send(begun(rest, value, joins=None))
    failpoints.reached("chain.after_next")


def begun(rest: Rest, value: bytes, *, joins: str | None) -> list[Message]:
    """The messages that follow on `value`: one, or the first of each member of a group.

    The record of a group is saved. With `joins` it commits with the transaction on that
    database, if the store is in it.
    """
    _, lines = steps.split_failure(rest.lines)
    step, after = steps.first(lines)
    if isinstance(step, CallStep):
        return [rest.next_call(step, value, after, clock.now())]
    follows = rest.after_group(step, after)
    if not step.members:
        return _without_members(follows)
    key, total = rest.next_id, len(step.members)
    group = StoredGroup(id=key, total=total, rest=sealed(follows, key, total))
    store().create_group(group, joins=joins)
    return [
        message
        for index, member in enumerate(step.members)
        for message in _of_member(rest.member_rest(index, member), value, joins)
    ]


def _without_members(follows: Rest) -> list[Message]:
    """An empty group hands on an empty list at once."""
    if follows.is_over and follows.group is None:
        _end(follows, EMPTY_LIST)
        return []
    return [handed_on(follows, EMPTY_LIST)]


def _of_member(rest: Rest, value: bytes, joins: str | None) -> list[Message]:
    if rest.is_over:  # an empty chain hands on what it is given
        return [handed_on(rest, value)]
    return begun(rest, value, joins=joins)


def handed_on(rest: Rest, value: bytes, **options: str) -> Message:
    """A message that hands `value` to `rest`, in a delivery of its own."""
    key = id_of(rest.chain, "pass", rest.place)
    step = CallStep(task=HAND_ON, queue=_queue_of(rest), wire=options, call=b"[[],{}]")
    made = rest.next_call(step, value, rest.lines, clock.now())
    return replace(
        made,
        id=key,
        name=key,
        payload=steps.joined(step.given(value), rest.lines),
        place=rest.place - 1,
    )


def _queue_of(rest: Rest) -> str:
    """The queue of the next call; a group that comes next tells none."""
    _, lines = steps.split_failure(rest.lines)
    while lines:
        step, lines = steps.first(lines)
        if isinstance(step, CallStep):
            return step.queue
        lines = next((m for m in step.members if m), lines)
        _, lines = steps.split_failure(lines)
    return Options().queue


def send(messages: Sequence[Message]) -> None:
    """Send `messages`; what Cloud Tasks does not take waits in the outbox."""
    with payloads.resting(messages) as light:
        try:
            enqueueing.send(light)
        except EnqueueError as error:
            failures = error.failures or range(len(light))
            _leave_to_relay([light[index] for index in failures], error)
    for message in messages:
        signals.task_enqueued.send_robust(sender=message.task, message=message)


def _leave_to_relay(messages: Iterable[Message], error: EnqueueError) -> None:
    logger.warning("The next step of a call waits in the outbox: %s", error)
    ordered = sorted(messages, key=lambda message: message.options.database)
    for alias, some in groupby(ordered, key=lambda one: one.options.database):
        found = list(some)
        there = outbox.waiting([message.key for message in found], alias)
        # An earlier delivery of the same call may have left some of them.
        if missing := [message for message in found if message.key not in there]:
            outbox.add(missing, alias)


# In the transaction of an atomic call


def hand_over_with(rest: Rest, value: bytes, alias: str) -> None:
    """Put what follows on `value` into the outbox of `alias`, in its transaction.

    A call is put there itself. A group, or a call whose outbox is in another database,
    is made by a delivery of its own after the commit.
    """
    if rest.is_over and rest.group is None:
        return
    message = None
    if not rest.is_over:
        _, lines = steps.split_failure(rest.lines)
        step, after = steps.first(lines)
        if isinstance(step, CallStep):
            message = rest.next_call(step, value, after, clock.now())
    if message is None or message.options.database != alias:
        message = handed_on(rest, value, database=alias)
    with payloads.resting([message], joins=alias) as light:
        outbox.add(light, alias)
    signals.task_enqueued.send_robust(sender=message.task, message=message)


# The end of a chain, and of a group


def _end(rest: Rest, value: bytes) -> None:
    """Give the last value of a chain to its group, or keep that of a group."""
    if rest.group is not None:
        data = envelope.seal_value(value, place=member_place(rest.group, rest.member))
        store().save_member(rest.group, rest.member, data)
        failpoints.reached("member.saved")
        decide(rest.group)
    elif rest.keep is not None:
        keep_list(rest, value)


def decide(key: str) -> None:
    """Hand on the values of a group once all are there; else do nothing."""
    group = store().load_group(key)
    if group is None or group.is_done:
        return  # pruned, or an earlier delivery has done it
    if store().count_members(key) < group.total:
        return
    rest = None
    try:
        rest = unsealed(group.rest, key, group.total)
        values = [
            envelope.unseal_value(data, place=member_place(key, index))
            for index, data in enumerate(store().load_members(key))
        ]
    except BadSignature as error:
        # Another delivery would call the member again, and change nothing.
        logger.error("The values of group %s are not handed on: %s", key, error)
        if rest is not None:
            tell_result(rest, str(error), "")
        return
    failpoints.reached("group.before_then")
    try:
        hand_over(rest, b"[" + b",".join(values) + b"]")
    except PayloadTooLarge as error:
        logger.error("The values of group %s are not handed on: %s", key, error)
        tell_result(rest, str(error), "")
    failpoints.reached("group.after_then")
    store().finish_group(key)


# Results of chains


def keep_list(rest: Rest, value: bytes) -> None:
    """Keep the values of a group that ends a chain, under the id of the chain."""
    if len(value) > quotas.RESULT:
        text = f"Its values take {len(value):,} bytes, over {quotas.RESULT:,}."
        _save(rest, ResultState.FAILED, error=text)
        return
    data = envelope.seal_value(value, place=result_place(rest.chain))
    _save(rest, ResultState.SUCCEEDED, value=data)


def tell_result(rest: Rest, error: str, traceback: str) -> None:
    """Keep a failure as the result of its chain, and of the chains around it."""
    for one in _with_outer(rest):
        keep = one.keep if one.is_over else steps.keep_of(one.lines)
        if keep is not None:
            kept = replace(one, keep=keep)
            _save(kept, ResultState.FAILED, error=error, traceback=traceback)


def _with_outer(rest: Rest) -> Iterator[Rest]:
    """The next step of a call, then of the group that it belongs to, and so on."""
    current: Rest | None = rest
    while current is not None:
        yield current
        current = _rest_after(current.group) if current.group else None


def _rest_after(key: str) -> Rest | None:
    """The rest that follows on a group; None if it was pruned, or is refused."""
    group = store().load_group(key)
    try:
        return unsealed(group.rest, key, group.total) if group else None
    except BadSignature as error:
        logger.error("The chain around group %s can't be told of it: %s", key, error)
        return None


def _save(
    rest: Rest,
    state: ResultState,
    *,
    value: bytes | None = None,
    error: str = "",
    traceback: str = "",
) -> None:
    result = StoredResult(
        id=rest.chain,
        task=WHOLE,
        queue=_queue_of(rest),
        state=state,
        value=value,
        error=error,
        traceback=traceback,
        enqueued_at=datetime.fromtimestamp(clock.now(), UTC),
    )
    store().save_result(result, timedelta(seconds=rest.keep or 0))


def encoded(message: Message, rest: Rest | None, value: object) -> bytes | None:
    """The value of a call for what follows; None if nothing does.

    Raises UnsupportedValue for one that can't travel, PayloadTooLarge for one that is
    too large.
    """
    if rest is None or (rest.is_over and rest.group is None):
        return None
    if not steps.wants_value(rest.lines):
        return b"null"
    data = codec.dumps(value, root="its value")
    most = quotas.RESULT if rest.is_over else quotas.PAYLOAD
    if len(data) > most:
        raise PayloadTooLarge(
            f"{message.task} has returned a value of {len(data):,} bytes, more than "
            f"the {most:,} that are handed on. Store it, and return its key."
        )
    return data
