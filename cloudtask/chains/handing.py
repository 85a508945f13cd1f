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

A member that fails for good keeps its failure in the place of a value. It decides, too,
if the group is partial. A retry of the failed task leads to the value.

Two last members may both find all values written. They send `then` under one name.
"""

from __future__ import annotations

import logging
from dataclasses import replace

from cloudtask import clock, codec, envelope, failpoints, quotas, registry, signals
from cloudtask.chains import kept, steps
from cloudtask.chains.failure import Failure, failure_of, sealed_failure
from cloudtask.chains.leaving import send
from cloudtask.chains.rest import (
    EMPTY_LIST,
    Rest,
    id_of,
    message_of,
    queue_of,
    sealed,
    unsealed,
)
from cloudtask.chains.steps import CallStep
from cloudtask.exceptions import BadSignature, PayloadTooLarge
from cloudtask.message import Message
from cloudtask.options import Options
from cloudtask.registry import Definition
from cloudtask.sending import outbox, payloads
from cloudtask.stores import store
from cloudtask.stores.groups import StoredGroup, StoredMember, member_place

logger = logging.getLogger("cloudtask")

HAND_ON = "cloudtask.hand_on"


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
    is_partial = step.is_partial
    data = sealed(follows, key, total, is_partial=is_partial)
    group = StoredGroup(id=key, total=total, rest=data, is_partial=is_partial)
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
    step = CallStep(task=HAND_ON, queue=queue_of(rest), wire=options, call=b"[[],{}]")
    made = rest.next_call(step, value, rest.lines, clock.now())
    return replace(
        made,
        id=key,
        name=key,
        payload=steps.joined(step.given(value), rest.lines),
        place=rest.place - 1,
    )


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
        may_be_last = store().save_member(rest.group, rest.member, data)
        failpoints.reached("member.saved")
        if may_be_last:
            decide(rest.group)
    elif rest.keep is not None:
        kept.keep_list(rest, value)


def decide(key: str) -> None:
    """Hand on the values of a group once all are there; else do nothing."""
    rest = None
    try:
        group = store().load_group(key)
        if group is None or group.is_done:
            return  # pruned, or an earlier delivery has done it
        if not _is_complete(group):
            return
        rest = _follows(group)
        members = store().load_members(key)
        values = [_value(key, index, one) for index, one in enumerate(members)]
    except BadSignature as error:
        # Another delivery would call the member again, and change nothing.
        logger.error("The values of group %s are not handed on: %s", key, error)
        if rest is not None:
            tell_result(rest, _of_group(rest, key, error))
        return
    failpoints.reached("group.before_then")
    try:
        hand_over(rest, b"[" + b",".join(values) + b"]")
    except PayloadTooLarge as error:
        logger.error("The values of group %s are not handed on: %s", key, error)
        tell_result(rest, _of_group(rest, key, error))
    failpoints.reached("group.after_then")
    store().finish_group(key)


def _is_complete(group: StoredGroup) -> bool:
    missing = group.total - store().count_members(group.id)
    if missing <= 0 or not group.is_partial:
        return missing <= 0
    return store().count_members(group.id, failed=True) >= missing


def _follows(group: StoredGroup) -> Rest:
    return unsealed(group.rest, group.id, group.total, is_partial=group.is_partial)


def _value(key: str, index: int, one: StoredMember) -> bytes:
    """The encoded value of a member, or its failure."""
    if not one.has_failed:
        return envelope.unseal_value(one.value, place=member_place(key, index))
    return codec.dumps(failure_of(key, replace(one, place=index))[0])


def _of_group(rest: Rest, key: str, error: Exception) -> Failure:
    return Failure(rest.chain, rest.place, "cloudtask.group", key, str(error), "")


# Failures


def tell(message: Message, rest: Rest, error: str, traceback: str) -> None:
    """Tell all that is around a call that it is kept as a failed task.

    Sends the call for failures of its chain, once for each failure. A failed task that
    is retried, and fails again, is another failure. Raises EnqueueUnavailable.
    """
    step, _ = steps.split_failure(rest.lines)
    place = message.place
    failure = Failure(rest.chain, place, message.task, message.id, error, traceback)
    if step is not None:
        key = id_of(rest.chain, place, "failed", message.sequence)
        call = step.given(codec.dumps(failure))
        made = message_of(step, key, call, clock.now(), rest.carried)
        failpoints.reached("failure.before_send")
        send([made])
        failpoints.reached("failure.after_send")
    tell_result(rest, failure, message.key)


def tell_result(rest: Rest, failure: Failure, key: str = "") -> None:
    """Keep a failure as the result of its chain, and of the chains around it.

    Each group keeps it for the member that has failed. `key` is that of the failed
    task. A partial group takes it as a value, so the chains around that have not
    failed.
    """
    current: Rest | None = rest
    inner = ""
    while current is not None:
        kept.keep_failure(current, failure)
        if current.group is None:
            return
        group = current.group
        current = _note_failure(current, failure, key, inner)
        inner = group


def _note_failure(rest: Rest, failure: Failure, key: str, inner: str) -> Rest | None:
    """Keep a failure of a member; returns what follows on a group that fails by it."""
    try:
        group = store().load_group(str(rest.group))
        if group is None:
            return None
        data = sealed_failure(group.id, rest.member, failure, key, inner)
        may_be_last = store().save_failed_member(group.id, rest.member, data)
        failpoints.reached("member.failed")
        if group.is_partial:
            if may_be_last:
                decide(group.id)
            return None
        return _follows(group)
    except BadSignature as error:
        logger.error("The chain around %s can't be told of it: %s", rest.group, error)
        return None


# Values


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
