"""Marks that a call with the option `cancellable` begins, and looks for a cancel."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from cloudtask.message import Message
from cloudtask.stores import CallCancelled, store


def is_marked(message: Message) -> bool:
    """Whether deliveries of the call mark in the store that it begins.

    An atomic call has the record of its execution in place of a mark.
    """
    return message.options.cancellable and not message.options.atomic


def refusal_of(message: Message) -> CallCancelled | None:
    """Mark that the call begins; returns an error if it was cancelled before.

    Raises EnqueueUnavailable when the store can't be reached.
    """
    if not is_marked(message) or store().begin_call(message.id):
        return None
    return CallCancelled(message.id)


def cancellation_of(message: Message) -> Callable[[], bool] | None:
    """A function that tells whether the call was cancelled, if it can be."""
    if not is_marked(message):
        return None
    return partial(_is_cancelled, message.id)


def _is_cancelled(key: str) -> bool:
    return store().is_cancelled(key)
