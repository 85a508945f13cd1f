"""Makes the message of a call, and sends it: at once, or with a commit."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from django.db import connections

from cloudtask import carriers, clock, codec, failpoints, signals
from cloudtask.exceptions import CloudTaskError, DuplicateTask, EnqueueError
from cloudtask.message import Carried, Enqueued, Message
from cloudtask.options import Options
from cloudtask.registry import Definition, check_findable
from cloudtask.sending import limits, on_commit, outbox, payloads, uniqueness
from cloudtask.stores.transactions import is_open, is_relational, undisturbed
from cloudtask.transports import transport

logger = logging.getLogger("cloudtask")

Arguments = tuple[tuple[Any, ...], dict[str, Any]]

ENQUEUED = "enqueue.enqueued"  # the point at which tests listen for messages


def enqueue(
    definition: Definition,
    options: Options,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> Enqueued:
    """Enqueue one call; see `runtime.enqueue`."""
    message = make_message(definition, options, args, kwargs)
    if message.unique is not None:
        return _enqueue_unique([message], options)[0]
    leave([message], options)
    return Enqueued(message.id, message.name, message.queue)


def enqueue_many(
    definition: Definition, options: Options, calls: Sequence[Arguments]
) -> list[Enqueued]:
    """Enqueue many calls of a task; see `runtime.enqueue_many`."""
    messages = _make_messages(definition, options, calls)
    if options.unique:
        return _enqueue_unique(messages, options)
    leave(messages, options)
    return [message.receipt for message in messages]


def _make_messages(
    definition: Definition, options: Options, calls: Sequence[Arguments]
) -> list[Message]:
    """The messages of `calls`; an error says which of them it is about."""
    messages: list[Message] = []
    carried = carriers.capture(definition.path) if calls else None
    try:
        for call in calls:
            messages.append(make_message(definition, options, *call, carried=carried))
    except (TypeError, EnqueueError) as error:
        ours = isinstance(error, CloudTaskError)
        kind: type[Exception] = type(error) if ours else TypeError
        of_task = f" of {definition.path}: "  # named once
        text = str(error).replace(of_task, ": ", 1)
        raise kind(f"calls[{len(messages)}]{of_task}{text}") from error
    return messages


def make_message(
    definition: Definition,
    options: Options,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    *,
    carried: Carried | None = None,
) -> Message:
    """The message of one call, checked as far as it can be without the service.

    It carries the context of the caller unless `carried` is given. Raises TypeError
    when the function does not take the arguments, UnsupportedValue when one can't
    travel, ConfigurationError for a task that no worker can find, else another
    EnqueueError.
    """
    definition.check_call(args, kwargs)
    check_findable(definition)
    if carried is None:
        carried = carriers.capture(definition.path)
    created = clock.now()
    message_id = secrets.token_hex(16)
    message = Message(
        id=message_id,
        task=definition.path,
        queue=options.queue,
        # A random id leads the name: names that begin alike slow the service down.
        name=message_id if options.name is None else options.name,
        named=options.name is not None,
        payload=codec.dumps_call(
            args,
            kwargs,
            wipe_related_caches=options.wipe_related_caches,
            of=definition.path,
        ),
        created=created,
        eta=_eta(options, created),
        unique=uniqueness.key_of(definition, options, args, kwargs)
        if options.unique
        else None,
        carried=carried.project,
        telemetry=carried.telemetry,
        options=options,
    )
    limits.check(message, created)
    return message


def _eta(options: Options, now: float) -> float | None:
    if options.countdown is not None:
        return now + options.countdown.total_seconds()
    return options.eta.timestamp() if options.eta is not None else None


def _enqueue_unique(messages: Sequence[Message], options: Options) -> list[Enqueued]:
    """Enqueue the calls whose key is free; the others get the receipt of its holder.

    The key and the outbox row commit together, so a crash leaves both or neither.
    """
    if options.small:
        named = [replace(m, name=str(m.unique), named=True) for m in messages]
        leave(named, options)
        return [message.receipt for message in named]
    receipts = uniqueness.seen_waiting(messages, options)
    unseen = [message for message in messages if message.id not in receipts]
    if unseen:
        receipts.update(_claim_and_leave(unseen, options))
    return [receipts[message.id] for message in messages]


def _claim_and_leave(
    messages: Sequence[Message], options: Options
) -> dict[str, Enqueued]:
    def transact() -> dict[str, Enqueued | None]:
        with uniqueness.claiming(options):
            holders = uniqueness.claim_all(messages)
            free = [message for message in messages if holders[message.id] is None]
            _leave(free, replace(options, transactional=True))
        return holders

    holders = undisturbed(
        transact, options.database, is_ours=uniqueness.claims_apart(options)
    )
    announce([message for message in messages if holders[message.id] is None])
    return {one.id: holders[one.id] or one.receipt for one in messages}


def leave(messages: Sequence[Message], options: Options) -> None:
    """Send `messages` now, or with the commit of the open transaction.

    Raises the first EnqueueError. Its `failures` has the error of each message that was
    not sent, by its place in `messages`.
    """
    _leave(messages, options)
    announce(messages)


def _leave(messages: Sequence[Message], options: Options) -> None:
    if not messages:
        return
    waits = _waits(options)
    is_kept = waits and not options.small and is_relational(options.database)
    if is_kept:
        with payloads.resting(messages, joins=options.database) as light:
            outbox.add(light, options.database)
    elif all(limits.fits_inline(message) for message in messages):
        _send_in_time(messages, options, waits=waits)
    else:
        with payloads.resting(messages) as light:
            _send_in_time(light, options, waits=waits)


def _send_in_time(
    messages: Sequence[Message], options: Options, *, waits: bool
) -> None:
    """Send messages that have no row in an outbox: now, or after the commit."""
    if waits and is_open(options.database):
        on_commit.send_after(messages, options.database, send)
    else:
        send(messages)


def about(definition: Definition, options: Options, count: int) -> carriers.Enqueueing:
    """An enqueue of `count` calls, as telemetry hears of it."""
    has_key = bool(options.unique and not options.small)  # it goes by the outbox
    is_known = options.database in connections  # or else it is refused soon
    return carriers.Enqueueing(
        task=definition.path,
        queue=options.queue,
        calls=count,
        waits=has_key or (is_known and _waits(options)),
    )


def _waits(options: Options) -> bool:
    """Whether messages with these options wait for a commit."""
    waits = options.transactional
    if waits is None or options.small:
        waits = waits is not False and is_open(options.database)
    return waits


def announce(messages: Sequence[Message]) -> None:
    """Send the signal of each message, and tell tests that listen."""
    if not messages:
        return
    if signals.task_enqueued.receivers:
        for message in messages:
            signals.task_enqueued.send_robust(sender=message.task, message=message)
    failpoints.tell(ENQUEUED, messages)


def send(messages: Sequence[Message]) -> None:
    """Hand `messages` to the transport; raises the first EnqueueError.

    Its `failures` has the error of each message that was not sent, by its place in
    `messages`. A `unique` message whose name is taken counts as sent: its equal waits.
    """
    failpoints.reached("enqueue.before_send")
    if carriers.state.is_unobserved:
        _send(messages)
    else:
        with carriers.sending(messages):
            _send(messages)
    failpoints.reached("enqueue.after_send")


def _send(messages: Sequence[Message]) -> None:
    if len(messages) == 1:
        _send_one(messages[0])
    else:
        _send_many(messages)


def _send_one(message: Message) -> None:
    try:
        transport().send(message)
    except DuplicateTask as error:
        if not _waits_already(message, error):
            raise


def _send_many(messages: Sequence[Message]) -> None:
    errors = enumerate(transport().send_many(messages))
    failures = {i: e for i, e in errors if e and not _waits_already(messages[i], e)}
    if not failures:
        return
    first = next(iter(failures.values()))
    text = f"{len(failures)} of {len(messages)} calls were not enqueued: {first}"
    error = type(first)(text)
    error.failures = failures
    raise error from first


def _waits_already(message: Message, error: EnqueueError) -> bool:
    if message.unique is None or not isinstance(error, DuplicateTask):
        return False
    logger.info(
        "Task %s (%s) was not enqueued: a call with the same unique key waits in the "
        "queue, or ran a short while ago.",
        message.task,
        message.id,
    )
    return True
