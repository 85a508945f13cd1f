"""Looks whether a chain or a group was cancelled, before each of its steps begins.

One mark in the store decides. It has the id of the receipt, which all steps, members
and later steps know. The mark has these states; steps and cancels move it:

    none        a step begins           none, or begun if the chain is exact
    none        cancel                  cancelled: PREVENTED if the chain is exact
    begun       cancel                  cancelled: REQUESTED
    cancelled   a step is delivered     cancelled: the step does not begin

A chain is exact if it has the option `cancellable`, or begins with a group. Its first
step and a cancel both insert the mark, and one of them is first. Other steps only read.

| a crash comes | what it leaves | what follows |
|---|---|---|
| before the cancel commits | no mark | the chain goes on |
| after the cancel commits | the mark | the delivery of each waiting step finds it |
| after a step has begun | its effects | a redelivery finds the mark |
| after a hand-over | the next step or its outbox row | it finds the mark |
| after the last value of a group | the value, perhaps `then` | `then` finds the mark |

So a hand-over that races with a cancel needs no decision of its own: it may make the
next step, `then` or a whole group, of which nothing begins. A failed task stays. If it
is retried, it finds the mark, too.

A single step can be cancelled by its own id. Then no value reaches what follows. All
receipts around it are told at once, since they would wait without end;
`delivering.cancelling` says how.
"""

from __future__ import annotations

from cloudtask.message import Message
from cloudtask.stores import store
from cloudtask.stores.transactions import is_relational
from cloudtask.transports import transport
from cloudtask.transports.memory import MemoryTransport


def goes_on(message: Message) -> bool:
    """Whether a step may begin, as far as its chain is concerned.

    Raises EnqueueUnavailable when the store can't be reached.
    """
    key = message.whole
    if key is None or not _has_store():
        return True
    try:
        return store().begin_step(key, is_marked=message.exact)
    except (AssertionError, RuntimeError) as error:
        if _is_without_database(error):
            return True
        raise


def is_cancelled(message: Message) -> bool:
    """Whether the whole chain of a step was cancelled."""
    key = message.whole
    if key is None or not _has_store():
        return False
    try:
        return store().is_cancelled(key)
    except (AssertionError, RuntimeError) as error:
        if _is_without_database(error):
            return False
        raise


def _has_store() -> bool:
    """Whether there is anything in which a cancel could be marked."""
    alias = store().database
    return alias is None or is_relational(alias)


def _is_without_database(error: Exception) -> bool:
    """Whether a test asks that may not use a database, so that none of its chains can
    be cancelled."""
    text = str(error)  # of Django's SimpleTestCase, or of pytest-django
    is_refusal = text.startswith("Database ") and "not allowed" in text
    return is_refusal and isinstance(transport(), MemoryTransport)
