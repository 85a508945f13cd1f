"""Calls that wait for the commit of a test's own transaction, which never comes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from django.db import connections

from cloudtask.message import Message
from cloudtask.sending.on_commit import AfterCommit


def entries() -> Iterator[AfterCommit]:
    """Our on-commit entries that are still to be done, of all connections: in an
    asynchronous test those of the ORM are another thread's.

    A rolled back savepoint has removed its own already.
    """
    for connection in sorted(AfterCommit.homes, key=lambda home: home.alias):
        yield from _ours(connection, connection.run_on_commit)


def _ours(connection: Any, hooks: Sequence[Any]) -> Iterator[AfterCommit]:
    test = _savepoint_of_test(connection)
    for sids, entry, *_ in list(hooks):
        if isinstance(entry, AfterCommit) and entry.messages and test <= sids:
            yield entry


def _savepoint_of_test(connection: Any) -> set[str]:
    """The savepoint in which every test of a TestCase runs, as a set.

    What was enqueued outside of it, in setUpTestData, belongs to no test: it would be
    there for each.
    """
    blocks = connection.atomic_blocks
    if len(blocks) > 1 and all(block._from_testcase for block in blocks[:2]):
        return set(connection.savepoint_ids[:1])
    return set()


def is_committed(entry: AfterCommit) -> bool:
    """Whether the commit would have come: all that is still open is the test's own."""
    blocks: list[Any] = connections[entry.alias].atomic_blocks
    return bool(blocks) and all(block._from_testcase for block in blocks)


def waiting() -> list[Message]:
    """The messages of `entries`, in order."""
    return [message for entry in entries() for message in entry.messages]


class Commits:
    """Does, for our entries alone, what the commits would do.

    The entries stay in Django's list, where `captureOnCommitCallbacks` counts them: one
    that has been done does nothing any more. What was looked through is remembered, so
    that many thousand calls cost as much each as a few.
    """

    def __init__(self) -> None:
        self.made = -1
        self.seen: dict[str, tuple[list[Any], int]] = {}

    def flush(self) -> None:
        """Send what waits for a commit; a failure to send raises, as it would there."""
        if self.made == AfterCommit.made:
            return
        try:
            while self.made != AfterCommit.made:
                self.made = AfterCommit.made
                for connection in connections.all(initialized_only=True):
                    for entry in self._new(connection):
                        entry()
        except BaseException:
            self.made = -1
            self.seen.clear()
            raise

    def _new(self, connection: Any) -> list[AfterCommit]:
        hooks = connection.run_on_commit
        before, length = self.seen.get(connection.alias, (None, 0))
        start = length if before is hooks else 0
        self.seen[connection.alias] = (hooks, len(hooks))
        return list(_ours(connection, hooks[start:]))
