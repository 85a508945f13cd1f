"""Turns trees of signatures into the lines that travel, and enqueues them."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, Protocol, cast

from django.db import transaction

from cloudtask import carriers, clock
from cloudtask.chains import steps
from cloudtask.chains.handing import begun
from cloudtask.chains.rest import Rest
from cloudtask.chains.steps import CallStep, GroupStep, Lines
from cloudtask.message import Message
from cloudtask.options import Options
from cloudtask.receipts import Receipt
from cloudtask.sending import enqueueing, limits, outbox, payloads
from cloudtask.stores.transactions import apart, is_relational, translated
from cloudtask.workflows.signatures import Signature

GROUP = "cloudtask.group"  # what carriers are told in place of a task
DEEPEST = 20  # levels of groups and chains inside one another


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """How a tree is enqueued as a whole."""

    countdown: timedelta | None = None
    transactional: bool | None = None
    keep_result: timedelta | None = None
    cancellable: bool = False
    partial: bool = False
    queue: str | None = None
    database: str | None = None


class Tree(Protocol):
    """A chain or a group: `parts` are its steps or its members."""

    @property
    def is_chain(self) -> bool: ...
    @property
    def parts(self) -> tuple[Any, ...]: ...
    @property
    def on_failure(self) -> Signature | None: ...
    @property
    def policy(self) -> Policy: ...


def chosen(tree: Any, queue: str | None = None, database: str | None = None) -> Any:
    """The tree with the queue and the database of `.using()` in all its calls.

    An inner choice goes before an outer one.
    """
    if isinstance(tree, Signature):
        return tree.chosen(queue, database)
    policy = tree.policy
    queue, database = policy.queue or queue, policy.database or database
    if queue is None and database is None and all(_is_plain(p) for p in tree.parts):
        return tree
    return replace(
        tree,
        parts=tuple(chosen(part, queue, database) for part in tree.parts),
        on_failure=tree.on_failure and chosen(tree.on_failure, queue, database),
    )


def _is_plain(part: Any) -> bool:
    return isinstance(part, Signature)


# From a tree to lines


def _lines(
    tree: Any, where: str, *, is_given: bool, depth: int = 0, failure: Lines = ()
) -> Lines:
    """The lines of a signature, a chain or a group.

    `is_given` says whether a value comes before it. `failure` has the lines of a call
    for failures, for a tree without one of its own. All signatures are checked.
    """
    if depth > DEEPEST:
        raise ValueError(f"Chains and groups are nested {DEEPEST} levels deep at most.")
    is_chain = not isinstance(tree, Signature) and tree.is_chain
    parts = tree.parts if is_chain else (tree,)
    found = list(_failure(tree, where) or failure)
    for index, part in enumerate(parts):
        here = f"{where}step {index + 1}" if is_chain else where.rstrip(", ")
        given = is_given or index > 0
        # That of a group in a chain goes to its members; else it is here already.
        own = _failure(part, f"{here}, ") if is_chain else ()
        step = _part(part, here, is_given=given, depth=depth, failure=own)
        found += step.lines()
    return tuple(found)


def _failure(tree: Any, where: str) -> Lines:
    if isinstance(tree, Signature) or tree.on_failure is None:
        return ()
    step: CallStep = tree.on_failure.step(f"{where}on_failure", is_given=True)
    return step.lines(steps.FAILURE)


def _part(
    part: Any, where: str, *, is_given: bool, depth: int, failure: Lines
) -> CallStep | GroupStep:
    if isinstance(part, Signature):
        return part.step(where or "the call", is_given=is_given)
    inside = f"{where}, " if where else ""
    members = tuple(
        _lines(
            member,
            f"{inside}member {n + 1}, ",
            is_given=is_given,
            depth=depth + 1,
            failure=failure,
        )
        for n, member in enumerate(part.parts)
    )
    keep = part.policy.keep_result
    seconds = keep.total_seconds() if keep else None
    return GroupStep(members, seconds, part.policy.partial)


# Enqueueing


def enqueued(tree: Tree) -> Receipt[Any]:
    tree = chosen(tree)
    lines = _lines(tree, "", is_given=False)
    _, body = steps.split_failure(lines)
    step, after = steps.first(body)
    first = step.task if isinstance(step, CallStep) else GROUP
    rest = Rest(
        chain=secrets.token_hex(16),
        place=0,
        lines=lines,
        carried=carriers.capture(first),
        exact=_is_exact(tree, step),
    )
    if isinstance(step, CallStep):
        message = rest.next_call(step, b"null", after, clock.now())
        own = tree.parts[0].options
        options = replace(own, transactional=tree.policy.transactional)
        limits.check_database(options, "A chain")
        messages = _delayed([message], tree.policy.countdown)
        enqueueing.leave(messages, options)
        database = options.database
    else:
        database = _database(step.members)
        messages = _leave_group(rest, tree.policy, database)
    return _receipt(tree, rest, messages, database)


def _is_exact(tree: Tree, first: CallStep | GroupStep) -> bool:
    """Whether the first step marks that the chain begins.

    A group needs the store in any case, so its members mark it always.
    """
    if isinstance(first, GroupStep) or tree.policy.cancellable:
        return True
    return bool(tree.parts[0].options.cancellable)


def _leave_group(rest: Rest, policy: Policy, alias: str) -> list[Message]:
    """Save the group and all its first messages in one transaction, or nothing.

    They are sent after its commit. Without an SQL database the record of the group is
    saved first.
    """
    if not is_relational(alias):
        messages = _delayed(begun(rest, b"null", joins=None), policy.countdown)
        options = Options(database=alias, transactional=policy.transactional)
        limits.check_database(options, "A group")
        enqueueing.leave(messages, options)
        return messages
    with translated("Enqueueing a group", alias), _together(alias, policy):
        messages = _delayed(begun(rest, b"null", joins=alias), policy.countdown)
        with payloads.resting(messages, joins=alias) as light:
            if light:
                outbox.add(light, alias)
    enqueueing.announce(messages)
    return messages


def _together(alias: str, policy: Policy) -> AbstractContextManager[Any]:
    if policy.transactional is False:
        return apart(alias, "Enqueueing a group")
    return cast("AbstractContextManager[Any]", transaction.atomic(using=alias))


def _database(members: Iterable[Lines]) -> str:
    """The database of the first calls of all members."""
    databases = {step.options.database for step in _first_calls(members)}
    if len(databases) > 1:
        names = ", ".join(sorted(map(repr, databases)))
        raise ValueError(
            f"All members of a group need the same option database, not {names}."
        )
    return next(iter(databases), "default")


def _first_calls(members: Iterable[Lines]) -> Iterator[CallStep]:
    for member in members:
        _, lines = steps.split_failure(member)
        step, _ = steps.first(lines)
        if isinstance(step, CallStep):
            yield step
        else:
            yield from _first_calls(step.members)


def _delayed(messages: Sequence[Message], by: timedelta | None) -> list[Message]:
    if by is None:
        return list(messages)
    seconds = by.total_seconds()
    return [replace(m, eta=(m.eta or m.created) + seconds) for m in messages]


def _receipt(
    tree: Tree, rest: Rest, messages: Sequence[Message], database: str
) -> Receipt[Any]:
    last = steps.last(rest.lines)
    is_atomic = isinstance(last, CallStep) and last.options.atomic
    return Receipt(
        rest.chain,
        messages[0].name if messages else rest.chain,
        messages[0].queue if messages else "default",
        steps.keep_of(rest.lines) is not None,
        last.options.database if isinstance(last, CallStep) and is_atomic else None,
        rest.exact,
        database,
        is_chain=True,
        places=len(tree.parts) if tree.is_chain else 1,
    )
