"""Names the running call to Sentry, where its SDK is loaded."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from cloudtask.delivering.calls import Call

MODULE = "sentry_sdk"


@contextmanager
def reporting(call: Call) -> Iterator[None]:
    """Give events inside the block the task as transaction, and tags of the call."""
    sentry: Any = sys.modules[MODULE]
    with sentry.isolation_scope() as scope:
        scope.clear_breadcrumbs()  # those of other calls on this thread
        scope.set_transaction_name(call.message.task, source="task")
        # The integration of Django names events by the URL, which is one for all tasks.
        sentry.get_current_scope().add_event_processor(_named_after(call))
        scope.set_tag("cloudtask.id", call.message.id)
        scope.set_tag("cloudtask.queue", call.message.queue)
        scope.set_tag("cloudtask.attempt", call.context.attempt)
        yield


def _named_after(call: Call) -> Callable[[dict[str, Any], Any], dict[str, Any]]:
    def name(event: dict[str, Any], hint: Any) -> dict[str, Any]:
        if event.get("type") != "transaction":
            event["transaction"] = call.message.task
            event["transaction_info"] = {"source": "task"}
        return event

    return name
