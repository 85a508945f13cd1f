"""Refuses messages that Cloud Tasks or this library does not accept, before a send."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from django.db import connections

from cloudtask import codec, conf, quotas
from cloudtask.exceptions import (
    ConfigurationError,
    EnqueueError,
    PayloadTooLarge,
    QueueNotFound,
    UnsupportedValue,
)
from cloudtask.message import Message
from cloudtask.options import Options, nearest
from cloudtask.stores.transactions import is_relational
from cloudtask.targets import HttpTarget, target
from cloudtask.transports import check_settings

logger = logging.getLogger("cloudtask")


def room(message: Message) -> int:
    """The size in bytes that the envelope of `message` may have."""
    headers = message.options.headers
    taken = sum(len(f"{k}{v}".encode()) + 16 for k, v in (headers or {}).items())
    taken += 2 * (len(message.carried) + len(message.telemetry))  # with its quotes
    most = min(conf.settings().max_task_size, quotas.TASK)
    return most - quotas.OVERHEAD - taken


def fits_inline(message: Message) -> bool:
    """Whether the payload fits into the task without compression."""
    return message.options.small or len(message.payload) <= room(message)


def check(message: Message, now: float) -> None:
    """Raise if the service would refuse `message`; errors name queue and task.

    `now` is in unix seconds. Raises QueueNotFound, PayloadTooLarge or another
    EnqueueError. Raises ConfigurationError if a setting that a send needs is missing.
    """
    check_settings()
    what = f"Task {message.task} ({message.id}) for queue {message.queue!r:.120}"
    _check_queue(message, what)
    check_database(message.options, what)
    if message.named and not quotas.NAME.fullmatch(message.name):
        raise EnqueueError(
            f"{what} was refused: its name {message.name!r:.60} must be 1 to 500 "
            "letters, digits, hyphens and underscores."
        )
    if message.eta is not None:
        _check_eta(message.eta - now, what)
    if message.options.timeout is not None:
        _check_timeout(message.options.timeout.total_seconds(), what)
    if message.options.carries_backoff:
        _check_backoff(message.options.backoff, what)
    if message.options.url is not None:
        _check_url(message, message.options.url, what)
    if message.options.headers:
        _check_headers(message.options.headers, what)
    _check_size(message, what)


def _check_size(message: Message, what: str) -> None:
    is_small = message.options.small
    size, most = len(message.payload), quotas.SMALL if is_small else quotas.PAYLOAD
    if size > most:
        rule = ", the limit with small=True" if is_small else ""
        raise PayloadTooLarge(
            f"{what} was refused: its arguments take {size:,} bytes, more than "
            f"{most:,}{rule}. Pass the id of the large object."
        )


def _check_queue(message: Message, what: str) -> None:
    declared = conf.settings().queues
    if declared and message.queue not in declared:
        raise QueueNotFound(
            f"{what} was refused: CLOUDTASK['QUEUES'] has no such queue; "
            f"{nearest(message.queue, declared)}"
        )
    if not quotas.QUEUE.fullmatch(message.queue):
        raise EnqueueError(
            f"{what} was refused: a queue id has 1 to 100 letters, digits and hyphens."
        )


def check_database(options: Options, what: str) -> None:
    """Raise ConfigurationError unless the alias of `options` has what they need."""
    alias = options.database
    if alias != "default" and alias not in connections:
        raise ConfigurationError(
            f"{what} was refused: DATABASES has no alias {alias!r:.60}; "
            f"{nearest(alias, connections)}"
        )
    if need := _need_of_tables(options):
        check_tables(alias, what, *need)


def check_tables(alias: str, what: str, need: str, advice: str) -> None:
    """Raise ConfigurationError if `alias` has no tables, which `need` writes to."""
    if not is_relational(alias):
        engine = connections.settings[alias]["ENGINE"]
        raise ConfigurationError(
            f"{what} was refused: {need} needs tables of a relational database, and "
            f"DATABASES[{alias!r}], which has the engine {engine}, has none. {advice} "
            "The option database chooses another alias."
        )


def _need_of_tables(options: Options) -> tuple[str, str] | None:
    """The option that writes to tables, and how to do without; None without one."""
    if options.atomic:
        return "atomic=True", "Let the task stand a second delivery."
    if options.small:
        return None
    if options.unique:
        return "unique", "With small=True, Cloud Tasks itself refuses the second call."
    if options.transactional:
        return "transactional=True", "Without it, a task is sent after the commit."
    return None


def _check_eta(ahead: float, what: str) -> None:
    if ahead > quotas.HORIZON:
        raise EnqueueError(
            f"{what} was refused: it is due in {ahead / 86400:.1f} days; Cloud Tasks "
            "takes 30 at most. Let a task defer the next leg."
        )
    if ahead < -quotas.PAST:
        logger.warning(
            "%s was due %s seconds ago, so it runs now. Check the time zone of its eta "
            "if that surprises you.",
            what,
            f"{-ahead:,.0f}",
        )


def _check_timeout(seconds: float, what: str) -> None:
    low, high = target().min_deadline, target().max_deadline
    if not low <= seconds <= high:
        raise EnqueueError(
            f"{what} was refused: its timeout of {seconds:g} seconds is not between "
            f"{low:g} and {high:g}, the limits of Cloud Tasks for this target."
        )


def _check_backoff(backoff: object, what: str) -> None:
    try:
        codec.dumps(backoff, root="its backoff function")
    except UnsupportedValue as error:
        raise UnsupportedValue(f"{what} was refused: {error}") from error


def _check_url(message: Message, url: str, what: str) -> None:
    if len(url) > quotas.URL:
        raise EnqueueError(
            f"{what} was refused: its url has {len(url):,} characters; Cloud Tasks "
            f"takes {quotas.URL:,} at most."
        )
    target().request_for(message)  # refuses an address that is not allowed


def _check_headers(headers: Mapping[str, str], what: str) -> None:
    names = {name.casefold() for name in headers}
    # App Engine keeps the header: see the headers of both requests in target.proto.
    if "user-agent" in names and isinstance(target(), HttpTarget):
        raise EnqueueError(
            f"{what} was refused: Cloud Tasks replaces the header 'User-Agent' by its "
            "own. Use another name."
        )
