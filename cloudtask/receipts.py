"""The receipt of a call, which waits for its result."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Generic, TypeVar, overload

from asgiref.sync import sync_to_async
from django.db import connections

from cloudtask import codec, envelope
from cloudtask.asynchrony import synchronous
from cloudtask.chains.kept import WHOLE
from cloudtask.context import current
from cloudtask.delivering import cancelling, results, retrying
from cloudtask.delivering.cancelling import (
    Cancellable,
    CancellableCall,
    CancellableChain,
    Cancellation,
)
from cloudtask.discretion import discreet
from cloudtask.exceptions import (
    ResultExpired,
    ResultNotKept,
    TaskFailed,
)
from cloudtask.message import Enqueued
from cloudtask.options import Options, as_timedelta
from cloudtask.sending import on_commit
from cloudtask.stores.results import ResultState, StoredResult, result_place
from cloudtask.stores.transactions import is_undecided
from cloudtask.transports import transport
from cloudtask.transports.memory import MemoryTransport

R_co = TypeVar("R_co", covariant=True)
T = TypeVar("T")
Timeout = timedelta | float | None  # seconds, if it is a number

SHORTEST, LONGEST = 0.05, 1.0  # seconds between two looks at the store


@dataclass(frozen=True, slots=True)
class Receipt(Enqueued, Generic[R_co]):
    """The receipt of `defer()`: the call's id, its Cloud Tasks task id, its queue.

    `keeps_result` says whether the task has `keep_result`; `kept_in` is the database
    that keeps the result of an atomic call. `is_cancellable` says whether the task has
    the option. `database` is that of the outbox. `is_chain` is true for the receipt of
    a chain or a group, which has the name and the queue of its first task; `places`
    counts its steps.
    """

    keeps_result: bool = field(default=True, repr=False, compare=False)
    kept_in: str | None = field(default=None, repr=False, compare=False)
    is_cancellable: bool = field(default=False, repr=False, compare=False)
    database: str = field(default="default", repr=False, compare=False)
    is_chain: bool = field(default=False, repr=False, compare=False)
    places: int = field(default=0, repr=False, compare=False)

    @overload
    def result(
        self: Receipt[Coroutine[Any, Any, T]], *, timeout: Timeout = None
    ) -> T: ...
    @overload
    def result(self, *, timeout: Timeout = None) -> R_co: ...
    @discreet
    def result(self, *, timeout: Timeout = None) -> Any:
        """The value that the function returned. Waits for it, without end by default.

        Raises TimeoutError after `timeout`, a timedelta or seconds; TaskFailed with the
        text of the error once the call is kept as failed, or was cancelled;
        ResultNotKept for a task without `keep_result`; ResultExpired once the result
        was removed. Raises RuntimeError where waiting can't help: in a task, in the
        transaction that must commit first, and in a test before `run_queued()`.
        """
        self._refuse_to_wait()
        for pause in _pauses(timeout):
            found = self._look()
            if found is not None:
                return value_of(found)
            self._refuse_in_transaction()
            self._refuse_memory()
            if pause is None:
                break
            time.sleep(pause)
        raise TimeoutError(self._no_result())

    @overload
    async def aresult(
        self: Receipt[Coroutine[Any, Any, T]], *, timeout: Timeout = None
    ) -> T: ...
    @overload
    async def aresult(self, *, timeout: Timeout = None) -> R_co: ...
    @discreet
    async def aresult(self, *, timeout: Timeout = None) -> Any:
        """As `result`, for asynchronous code."""
        await sync_to_async(self._refuse_to_wait)()
        for pause in _pauses(timeout):
            found = await sync_to_async(self._look)()
            if found is not None:
                return value_of(found)
            await sync_to_async(self._refuse_in_transaction)()
            self._refuse_memory()
            if pause is None:
                break
            await asyncio.sleep(pause)
        raise TimeoutError(self._no_result())

    def _no_result(self) -> str:
        return (
            f"The call {self.id} has no result yet. If this process is the only one "
            "that can run it, it waits for itself."
        )

    @discreet
    def cancel(self) -> Cancellation:
        """Keep the call from beginning, if that is still possible.

        PREVENTED: it does not begin. TOO_LATE: it has taken effect, or is kept as a
        failed task. REQUESTED: it may begin or runs; a `cancellable` call is not tried
        again. Of a chain or a group, no step begins after this that has not begun
        before. In an open transaction on its database the cancel commits with it.
        Raises EnqueueUnavailable when a store can't be reached.
        """
        with synchronous("receipt", "cancel"):
            return cancelling.cancel(self._as_cancellable())

    @discreet
    async def acancel(self) -> Cancellation:
        """As `cancel`, for asynchronous code."""
        return await sync_to_async(self.cancel)()

    @discreet
    def retry_failures(self) -> int:
        """Enqueue what is kept as failed again; returns the number of failed tasks.

        In a chain the step that has failed runs again, and the steps after it follow.
        In a group all members that have failed do, also in groups inside it; `then`
        follows on the last success. A partial group whose `then` has run does not run
        it again. Raises EnqueueError for the first task that the queue refuses.
        """
        with synchronous("receipt", "retry_failures"):
            return retrying.retry_failures(self.id, self.places)

    @discreet
    async def aretry_failures(self) -> int:
        """As `retry_failures`, for asynchronous code."""
        return await sync_to_async(self.retry_failures)()

    def _as_cancellable(self) -> Cancellable:
        if self.is_chain:
            return CancellableChain(
                self,
                self.database,
                is_exact=self.is_cancellable,
                kept_in=self.kept_in,
                keeps_result=self.keeps_result,
            )
        return CancellableCall(
            self,
            self.database,
            is_atomic=self.kept_in is not None,
            is_marked=self.is_cancellable and self.kept_in is None,
            keeps_result=self.keeps_result,
        )

    def _refuse_cancelled(self) -> None:
        """Raise TaskFailed for a call that was cancelled and so has no result."""
        if self._as_cancellable().is_cancelled():
            what = "chain or group" if self.is_chain else "call"
            raise TaskFailed(f"The {what} {self.id} was cancelled.", "")

    def _look(self) -> StoredResult | None:
        found = results.find(self.id, self.kept_in)
        if found is None and self.kept_in is not None:
            found = results.find(self.id)  # a failure in a chain that ends atomically
        if found is None:
            self._refuse_cancelled()
        return found

    def _refuse_to_wait(self) -> None:
        if not self.keeps_result:
            raise ResultNotKept(
                f"The result of the call {self.id} is not kept. Declare its task with "
                "@task(keep_result=timedelta(days=1))."
            )
        if current() is not None:
            raise RuntimeError(
                "A task that waits for the result of another one can keep that one "
                "from running. Let the other task defer what follows."
            )

    def _refuse_in_transaction(self) -> None:
        for connection in connections.all(initialized_only=True):
            alias = connection.alias
            if not is_undecided(alias):
                continue
            if self._awaits_commit(alias):
                raise RuntimeError(
                    f"The call {self.id} waits for the commit of the transaction that "
                    f"is open on {alias!r}. Ask for the result after it."
                )
            if connection.vendor == "sqlite":
                raise RuntimeError(
                    f"A transaction is open on {alias!r}, and SQLite shows it no "
                    "results that are written meanwhile. Ask for the result after it."
                )

    def _awaits_commit(self, alias: str) -> bool:
        """Whether the open transaction on `alias` has enqueued the call, or a part of
        the chain or the group."""
        return any(
            self.id in (message.id, message.whole) or self.name == message.name
            for message in on_commit.uncommitted(alias)
        )

    def _refuse_memory(self) -> None:
        if isinstance(transport(), MemoryTransport):
            raise RuntimeError(
                f"The call {self.id} has no result, and in tests nothing runs by "
                "itself. Call cloudtask.testing.run_queued() before result()."
            )


def receipt_of(enqueued: Enqueued, options: Options) -> Receipt[Any]:
    """The receipt of a call that was enqueued with `options`."""
    return Receipt(
        enqueued.id,
        enqueued.name,
        enqueued.queue,
        options.keep_result is not None,
        options.database if options.atomic else None,
        options.cancellable,
        options.database,
    )


def value_of(found: StoredResult) -> Any:
    """The value of a stored result.

    Raises TaskFailed, ResultExpired, or BadSignature for a value that was altered.
    """
    is_whole = found.task == WHOLE
    what = "The chain or group" if is_whole else f"Task {found.task}"
    what = f"{what} ({found.id})"
    if found.state is ResultState.FAILED:
        first = found.error.partition("\n")[0] or "its error has been removed"
        raise TaskFailed(f"{what} failed: {first}", found.traceback)
    if found.value is None:
        raise ResultExpired(f"{what} has succeeded, but its result was removed.")
    data = envelope.unseal_value(found.value, place=result_place(found.id))
    return codec.loads(data)


def _pauses(timeout: Timeout) -> Iterator[float | None]:
    """Seconds to wait between two looks; None before the last one."""
    seconds = None if timeout is None else as_timedelta(timeout, "timeout")
    stop = None if seconds is None else time.monotonic() + seconds.total_seconds()
    pause = SHORTEST
    while True:
        left = pause if stop is None else stop - time.monotonic()
        if left <= 0:
            yield None
            return
        yield min(pause, left)
        pause = min(pause * 1.5, LONGEST)
