"""Puts the calls that schedules make in a span of virtual time into the queue."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

from cloudtask.schedules.declared import moments
from cloudtask.schedules.ticking import message_of
from cloudtask.sending import enqueueing
from cloudtask.testruns.queue_run import Wanted


def push(since: float, until: float, wanted: Wanted | None = None) -> None:
    """Queue a call for each moment in (since, until], in unix seconds.

    The database has no part in it: a schedule is due also if it was never ticked, and
    not twice if a test runs the same span again.
    """
    start, end = (datetime.fromtimestamp(at, UTC) for at in (since, until))
    for at, one in moments(end, start):
        message = message_of(one, at, at)
        message = replace(message, eta=(at + one.delay).timestamp())
        if wanted is None or wanted(message):
            enqueueing.send([message])
