"""Defines named points in the library at which tests act or listen.

At a failpoint a test can crash, raise, delay or duplicate. An unused point costs one
check of an empty dict. With CLOUDTASK_FAILPOINT="name=kill" in its environment, a
process kills itself at that point with SIGKILL. At other points tests can listen.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

POINTS = frozenset(
    {
        "enqueue.before_send",
        "enqueue.after_send",
        "outbox.added",
        "outbox.committed",
        "outbox.sent",
        "unique.claimed",
        "tick.moved",
        "tick.sent",
        "tick.committed",
        "cancel.before_commit",
        "cancel.committed",
        "relay.claimed",
        "relay.before_send",
        "relay.after_send",
        "store.before_save",
        "store.after_save",
        "store.before_load",
        "store.before_finish",
        "store.after_finish",
        "chain.before_next",
        "chain.after_next",
        "member.saved",
        "member.failed",
        "group.before_then",
        "group.after_then",
        "failure.before_send",
        "failure.after_send",
        "result.before_save",
        "result.after_save",
        "failures.before_save",
        "failures.after_save",
        "bulk.sent",
        "bulk.page_done",
        "execute.received",
        "execute.before_call",
        "execute.before_commit",
        "execute.after_call",
        "execute.before_settle",
        "execute.before_successor",
        "execute.after_successor",
        "execute.settled",
        "step.before_send",
        "step.after_send",
        "plan.before_plan",
        "plan.after_plan",
        "shard.before_lease",
        "shard.after_lease",
        "shard.before_page",
        "shard.before_checkpoint",
        "shard.after_checkpoint",
        "shard.before_complete",
        "shard.after_complete",
        "shard.before_release",
        "shard.after_release",
        "finalize.before_decision",
        "finalize.after_decision",
        "finalize.before_lease",
        "finalize.before_call",
        "finalize.after_call",
        "finalize.after_settle",
        "reopen.paused",
        "reopen.opened",
        "reopen.resumed",
    }
)


LISTENING = frozenset({"enqueue.enqueued", "step.sent"})


class Crashed(BaseException):
    """Simulates a kill of the process: no `except Exception` catches it."""


_actions: dict[str, Callable[[], None]] = {}


def reached(name: str) -> None:
    """Run the action that a test has set for the point `name`."""
    if _actions:
        action = _actions.get(name)
        if action is not None:
            action()


@contextmanager
def at(name: str, action: Callable[[], None]) -> Iterator[None]:
    """Have `action` run at the point `name` inside the block.

    Raises ValueError for an unknown name.
    """
    if name not in POINTS:
        raise ValueError(f"There is no failpoint {name!r}; see failpoints.POINTS.")
    before = _actions.get(name)
    _actions[name] = action
    try:
        yield
    finally:
        if before is None:
            del _actions[name]
        else:
            _actions[name] = before


_listeners: dict[str, list[Callable[..., None]]] = {}


def tell(name: str, *values: Any) -> None:
    """Call the listeners at `name` with `values`; their errors reach the caller."""
    if _listeners:
        for listener in [*_listeners.get(name, ())]:
            listener(*values)


def listen(name: str, listener: Callable[..., None]) -> None:
    """Have `listener` called with the values of `tell` at the point `name`."""
    if name not in LISTENING:
        raise ValueError(f"There is no point {name!r}; see failpoints.LISTENING.")
    _listeners.setdefault(name, []).append(listener)


def stop_listening(name: str, listener: Callable[..., None]) -> None:
    """Undo one call of `listen`."""
    _listeners[name].remove(listener)
    if not _listeners[name]:
        del _listeners[name]


def crash() -> None:
    """An action: simulate a kill of the process."""
    raise Crashed


def _kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def read_environment() -> None:
    """Set the action for the point that CLOUDTASK_FAILPOINT names, if any."""
    name, equals, what = os.environ.get("CLOUDTASK_FAILPOINT", "").partition("=")
    if equals and what == "kill" and name in POINTS:
        _actions[name] = _kill


read_environment()
