"""Calls that wait for the commit of a test's own transaction, which never comes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from django.db import connections

from cloudtask.message import Message
from cloudtask.sending import on_commit
from cloudtask.sending.on_commit import Commit, Entry
from cloudtask.sending.relay import existing


def entries() -> Iterator[Entry]:
    """Our on-commit entries that are still to be called, of all connections.

    In an asynchronous test those of the ORM belong to another thread. The entries of a
    savepoint that was rolled back are left out.
    """
    on_commit.look()
    found = sorted(on_commit.commits.items(), key=lambda pair: pair[1].alias)
    for connection, commit in found:
        yield from _of_test(connection, commit)


def _of_test(connection: Any, commit: Commit) -> Iterator[Entry]:
    hooks = connection.run_on_commit
    is_whole = commit.hooks is hooks  # no savepoint was rolled back
    there = set() if is_whole else {id(func) for _, func, *_ in hooks}
    test = _savepoint_of_test(connection)
    for entry in list(commit.entries):
        is_there = is_whole or id(entry) in there
        if is_there and entry.messages and test <= entry.savepoints:
            yield entry


def _savepoint_of_test(connection: Any) -> set[str]:
    """The savepoint in which every test of a TestCase runs, as a set.

    A call enqueued outside of it, in setUpTestData, belongs to no test: every test of
    the class would see it.
    """
    blocks = connection.atomic_blocks
    if len(blocks) > 1 and all(block._from_testcase for block in blocks[:2]):
        return set(connection.savepoint_ids[:1])
    return set()


def keys_of_no_test() -> set[str]:
    """The keys of the waiting messages that setUpTestData enqueued."""
    return {
        message.key
        for connection, commit in on_commit.commits.items()
        for entry in commit.entries
        if not _savepoint_of_test(connection) <= entry.savepoints
        for message in entry.messages
    }


def is_committed(entry: Entry) -> bool:
    """Whether the commit would have happened: only the test's own blocks are open."""
    blocks: list[Any] = connections[entry.commit.alias].atomic_blocks
    return bool(blocks) and all(block._from_testcase for block in blocks)


def waiting() -> list[Message]:
    """The messages of `entries`, in order, without those whose row was rolled back."""
    return [message for entry in entries() for message in _standing(entry)]


def _standing(entry: Entry) -> list[Message]:
    commit, messages = entry.commit, list(entry.messages)
    connection = connections[commit.alias]
    is_ours = on_commit.commits.get(connection) is commit  # not another thread's
    if entry.send is not None or not is_ours:
        return messages
    if commit.hooks is connection.run_on_commit and not commit.is_doubtful:
        return messages
    return existing(messages, commit.alias)


def send(entry: Entry) -> None:
    """Do, for one entry alone, what its commit would do."""
    if entry.send is None:
        entry.commit.send_rows([entry])
    else:
        entry.commit.send_small([entry])


def flush() -> None:
    """Do what the commits would do; a small call that can't be sent raises.

    The entries stay in Django's list, where `captureOnCommitCallbacks` counts them. An
    entry that was done does nothing when it is called again.
    """
    ready = list(entries())
    for commit in {id(entry.commit): entry.commit for entry in ready}.values():
        ours = [entry for entry in ready if entry.commit is commit]
        commit.send_rows(ours)
        for entry in ours:
            if entry.messages:
                send(entry)
