"""Check-ins of Sentry's cron monitors for calls of schedules.

The monitor of a schedule is made, or changed, by its first check-in. All attempts of a
call share one check-in: it begins with the first and ends with the last.
"""

from __future__ import annotations

import hashlib
import re
from datetime import timedelta
from typing import Any

from sentry_sdk.crons import capture_checkin
from sentry_sdk.crons.consts import MonitorStatus

from cloudtask.context import TaskContext
from cloudtask.schedules import Declared, declared

LONGEST_SLUG = 50  # characters
ENDS = {"succeeded": MonitorStatus.OK, "exhausted": MonitorStatus.ERROR}


def begun(context: TaskContext) -> None:
    """The first attempt of a call of a schedule has begun."""
    if context.schedule is not None and context.attempt == 1:
        _tell(context, context.schedule, MonitorStatus.IN_PROGRESS)


def ended(context: TaskContext, outcome: str) -> None:
    """An attempt has ended; nothing is told if another one follows."""
    if context.schedule is not None and outcome in ENDS:
        _tell(context, context.schedule, ENDS[outcome])


def _tell(context: TaskContext, key: str, status: str) -> None:
    capture_checkin(
        monitor_slug=slug_of(key),
        check_in_id=hashlib.sha256(context.id.encode()).hexdigest()[:32],
        status=status,
        monitor_config=_config(declared().get(key)),
    )


def slug_of(key: str) -> str:
    """The name of a monitor: of letters, digits, "-" and "_", at most 50 of them.

    https://docs.sentry.io/product/crons/
    """
    slug = re.sub(r"[^a-z0-9_-]+", "-", key.lower()).strip("-")
    if slug == key.replace(".", "-") and len(slug) <= LONGEST_SLUG:
        return slug
    digest = hashlib.sha256(key.encode()).hexdigest()[:8]
    return f"{slug[: LONGEST_SLUG - 9]}-{digest}"


def _config(one: Declared | None) -> Any:
    """When Sentry expects check-ins; None if this code has no such schedule."""
    if one is None:
        return None
    every = one.schedule.every
    config: dict[str, Any] = {"timezone": one.zone.key}
    if isinstance(every, timedelta):
        minutes = max(1, round(every / timedelta(minutes=1)))
        config["schedule"] = {"type": "interval", "value": minutes, "unit": "minute"}
    else:
        config["schedule"] = {"type": "crontab", "value": " ".join(every.split())}
    spread = one.delay / timedelta(minutes=1)
    config["checkin_margin"] = 5 + round(spread)  # the relay ticks once a minute
    return config
