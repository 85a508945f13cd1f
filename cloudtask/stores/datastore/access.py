"""Reads, writes and queries Datastore, and runs transactions, for parts of the store.

All queries use the built-in indexes, so no index.yaml is needed.
"""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, TypeVar

from cloudtask import clock
from cloudtask.clients import code_of, ran_out_of_time
from cloudtask.stores.datastore.client import EMULATOR_HOST, Place, calling, once
from cloudtask.stores.datastore.rows import Path, Row, row_of

__all__ = ["Access", "Filter", "Path", "Row", "Try", "in_groups"]

T = TypeVar("T")
Filter = tuple[str, str, Any]

MUTATIONS = 500  # in one commit
LOOKUPS = 1000  # keys in one call
INSERTED = 250  # in one commit: with long keys under the 4 MiB that emulators take


@dataclass(slots=True)
class _Past:
    """The return values of earlier tries of a transaction, by their marks."""

    promised: dict[str, Any] = field(default_factory=dict)
    is_doubtful: bool = False
    left: bytes | None = None  # a transaction that may be open still


class _Committed(Exception):
    """An earlier try was committed, although its commit reported an error."""

    def __init__(self, result: Any) -> None:
        self.result = result


class Access:
    """The store's access to its Datastore.

    Every method raises EnqueueUnavailable if Datastore can't be reached, and
    ConfigurationError if the project, the database or the account is wrong.
    """

    place: Place

    def __init__(
        self,
        place: Place,
        *,
        sleep: Callable[[float], None] = time.sleep,
        monotonic: Callable[[], float] = time.monotonic,
        begins_early: bool | None = None,
    ) -> None:
        self.place = place
        self.begins_early = begins_early
        self.sleep = sleep
        self.monotonic = monotonic

    def now(self) -> datetime:
        """This process's time: Datastore has none that a condition could use."""
        return datetime.fromtimestamp(clock.now(), UTC)

    def calling(self, what: str, call: Callable[[Any], T]) -> T:
        return calling(what, self.place, call, sleep=self.sleep, clock=self.monotonic)

    def key(self, client: Any, path: Path) -> Any:
        return client.key(*path, namespace=self.place.namespace)

    def get(self, what: str, *paths: Path) -> list[Row | None]:
        """The rows at `paths`, in their order, each as it is now."""
        return self.calling(what, lambda client: _lookup(self, client, paths))

    def put(self, what: str, rows: Sequence[Row]) -> None:
        """Write `rows`, each on its own, and replace earlier ones."""
        self.calling(
            what,
            lambda client: client.put_multi(
                [entity_of(self, client, row) for row in rows], **once()
            ),
        )

    def insert(self, what: str, rows: Sequence[Row]) -> None:
        """Write those of `rows` that are not there, each on its own."""
        for some in in_groups(rows, INSERTED):
            missing: Sequence[Row] = some
            while missing and not self._inserted(what, missing):
                there = self.get(what, *(row.path for row in missing))
                missing = [
                    row for row, found in zip(missing, there, strict=True) if not found
                ]

    def _inserted(self, what: str, rows: Sequence[Row]) -> bool:
        """False if one of `rows` was there: then the others may be missing still."""
        from google.api_core.exceptions import AlreadyExists

        def run(client: Any) -> bool:
            batch = client.batch()
            batch.begin()
            for row in rows:
                batch.put(entity_of(self, client, row))
                mutation = batch.mutations[-1]
                mutation.insert = mutation.upsert
            try:
                batch.commit(**once())
            except AlreadyExists:
                return False
            return True

        return self.calling(what, run)

    def delete(self, what: str, paths: Sequence[Path]) -> None:
        """Delete the rows at `paths`, each on its own."""

        def run(client: Any) -> None:
            for some in in_groups(paths, MUTATIONS):
                client.delete_multi([self.key(client, path) for path in some], **once())

        self.calling(what, run)

    def query(
        self,
        what: str,
        kind: str,
        filters: Sequence[Filter] = (),
        *,
        order: str | None = None,
        projection: Sequence[str] = (),
        limit: int | None = None,
    ) -> list[Row]:
        """Rows as they are when the query arrives: Datastore's queries are strongly
        consistent. A projection on "__key__" gives rows without values."""

        def run(client: Any) -> list[Row]:
            query = self._query(client, kind, filters)
            query.order = [order] if order else []
            query.projection = projection
            return [row_of(one) for one in query.fetch(limit=limit, **once())]

        return self.calling(what, run)

    def count(
        self,
        what: str,
        kind: str,
        filters: Sequence[Filter],
        *,
        most: int | None = None,
    ) -> int:
        """The number of rows, counted up to `most`. The emulator can't count, so keys
        are read there."""
        from google.api_core.exceptions import MethodNotImplemented

        def run(client: Any) -> int:
            query = self._query(client, kind, filters)
            try:
                counting = client.aggregation_query(query).count(alias="all")
                counted = counting.fetch(limit=most, **once())
                return sum(int(one.value) for [one] in counted)
            except MethodNotImplemented:
                query.keys_only()
                return sum(1 for _ in query.fetch(limit=most, **once()))

        return self.calling(what, run)

    def _query(self, client: Any, kind: str, filters: Sequence[Filter]) -> Any:
        from google.cloud.datastore.query import PropertyFilter

        query = client.query(kind=kind, namespace=self.place.namespace)
        for name, operator, value in filters:
            if name == "__key__":
                value = self.key(client, value)
            query.add_filter(
                filter=PropertyFilter(name, operator, value)  # type: ignore[no-untyped-call]
            )
        return query

    def transact(self, what: str, work: Callable[[Try], T]) -> T:
        """Run `work` in a transaction, again from the start after a conflict.

        A commit that reported an error may still have been made. So every commit writes
        its own mark into its rows. A later try that reads such a mark returns the
        result of the try that wrote it, and writes nothing.
        """
        past = _Past()

        def attempt(client: Any) -> T:
            return Try(self, client, past).run(work)

        return self.calling(what, attempt)


class Try:
    """One try of a transaction. It does not see its own writes: read first."""

    def __init__(self, access: Access, client: Any, past: _Past) -> None:
        self._access = access
        self._client = client
        self._past = past
        self._mark = uuid.uuid4().hex
        if past.left is not None:
            self._release(past.left)
            past.left = None
        self._transaction = _begun(access, client)

    @property
    def is_doubtful(self) -> bool:
        """Whether an earlier try may have committed.

        Work that only deletes needs this, because it leaves no marks.
        """
        return self._past.is_doubtful

    def get(self, path: Path) -> Row | None:
        return self.get_all(path)[0]

    def get_all(self, *paths: Path) -> list[Row | None]:
        rows = _lookup(self._access, self._client, paths, self._transaction)
        for row in rows:
            mark = row.values.get("mark") if row else None
            if mark in self._past.promised:
                raise _Committed(self._past.promised[mark])
        return rows

    def put(self, *rows: Row) -> None:
        for row in rows:
            entity = entity_of(self._access, self._client, row, self._mark)
            self._transaction.put(entity)

    def delete(self, *paths: Path) -> None:
        for path in paths:
            self._transaction.delete(self._access.key(self._client, path))

    def run(self, work: Callable[[Try], T]) -> T:
        try:
            result = work(self)
        except _Committed as earlier:
            self._roll_back()
            done: T = earlier.result
            return done
        except BaseException:
            self._roll_back()
            raise
        if self._transaction.mutations:
            self._commit(result)
        else:
            self._roll_back()
        return result

    def _commit(self, result: object) -> None:
        from google.api_core.exceptions import GoogleAPICallError

        self._past.promised[self._mark] = result
        name = self._transaction.id
        try:
            self._transaction.commit(**once())
        except GoogleAPICallError as error:
            self._past.is_doubtful |= code_of(error) != "ABORTED"
            if ran_out_of_time(error):
                # Another connection will roll it back: this one may be silent.
                self._past.left = name
            elif name is not None:
                self._release(name)
            raise

    def _release(self, name: bytes) -> None:
        """Roll back a transaction whose commit failed: if that commit never arrived,
        the next try would wait for the locks of this one."""
        self._transaction = self._client.transaction()
        self._transaction._id = name
        self._transaction._status = self._transaction._IN_PROGRESS
        self._roll_back()

    def _roll_back(self) -> None:
        """Release the locks; if that fails, they expire."""
        from google.api_core.exceptions import GoogleAPICallError
        from google.auth.exceptions import GoogleAuthError

        with suppress(GoogleAPICallError, GoogleAuthError):
            self._transaction.rollback(**once())


def _begun(access: Access, client: Any) -> Any:
    """A transaction that its first lookup begins, which saves a call.

    With an emulator a separate call begins it: after a wait for locks, Firestore's
    emulator refuses the commit of the other kind.
    """
    is_early = access.begins_early
    if is_early is None:
        is_early = EMULATOR_HOST in os.environ
    transaction = client.transaction(begin_later=not is_early)
    if is_early:
        transaction.begin(**once())
    return transaction


def _lookup(
    access: Access, client: Any, paths: Sequence[Path], transaction: Any = None
) -> list[Row | None]:
    found: dict[Path, Row] = {}
    for some in in_groups(paths, LOOKUPS):
        keys = [access.key(client, path) for path in some]
        rows = map(row_of, client.get_multi(keys, transaction=transaction, **once()))
        found.update((row.path, row) for row in rows)
    return [found.get(path) for path in paths]


def entity_of(access: Access, client: Any, row: Row, mark: str = "") -> Any:
    """`row` as an entity of the client; `mark` identifies the commit that writes it."""
    from google.cloud.datastore import Entity

    values = {**row.values, "mark": mark} if mark else dict(row.values)
    made: Any = Entity(  # type: ignore[no-untyped-call]
        access.key(client, row.path),
        exclude_from_indexes=tuple(name for name in values if name not in row.indexed),
    )
    made.update(values)
    return made


def in_groups(items: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
