"""Tells whether a call that was found is cancelled, by the marks in the store.

A mark says whether the call, or a step of the chain, had begun before the cancel. One
that had not never begins: it is CANCELLED wherever it waits. One that had begun may
still run, or may have run to its end:

| what is found | the state after a cancel |
|---|---|
| a delivery under way | stays DISPATCHED |
| a call, or the next step of a chain, that waits | CANCELLED: it does not begin |
| a group whose members have not all ended, but no delivery | CANCELLED |
| nothing | stays UNKNOWN |
"""

from __future__ import annotations

from dataclasses import replace

from cloudtask.inspect.values import CallState, FoundCall
from cloudtask.message import Message
from cloudtask.stores import store

_ENDED = (CallState.SUCCEEDED, CallState.FAILED, CallState.CANCELLED)


def with_cancel(found: FoundCall, message: Message | None) -> FoundCall:
    """The call, with what is known of a cancel of it or of its chain."""
    if found.state in _ENDED:
        return found
    keys = {found.id, found.chain}
    if message is not None:
        keys |= {message.id, message.whole}
    marked = [key for key in keys if key and store().is_cancelled(key)]
    if not marked:
        return found
    state = CallState.CANCELLED if _is_over(found, marked) else found.state
    return replace(found, state=state, is_cancelled=True)


def _is_over(found: FoundCall, marked: list[str]) -> bool:
    """Whether nothing of a cancelled call runs, and it has not come to its end."""
    if found.state is CallState.DISPATCHED:
        return found.name is None  # told by the record of a group, not by a delivery
    if found.state is CallState.UNKNOWN:
        return not all(store().is_begun(key) for key in marked)
    return True
