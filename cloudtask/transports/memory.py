"""Keeps a queue in this process, for tests: the same bytes, but no network."""

from __future__ import annotations

import heapq
import threading
import unittest
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache, wraps
from typing import Any, Literal

from cloudtask import conf, envelope
from cloudtask.exceptions import DuplicateTask, EnqueueError
from cloudtask.message import Delivery, Message

Stage = Literal["before", "after"]
Refusal = tuple[Message, DuplicateTask]


class Waiting:
    """A sealed message in the queue, and the headers of its next delivery.

    `parent` is the delivery that ran when the message was pushed. `fault` names the
    fault that caused this delivery, if any.
    """

    __slots__ = ("_delivery", "body", "due", "fault", "message", "order", "parent")

    def __init__(
        self,
        due: float,
        order: int,
        message: Message,
        body: bytes,
        delivery: Delivery | None = None,
        parent: Waiting | None = None,
        fault: str | None = None,
    ) -> None:
        self.due = due
        self.order = order
        self.message = message
        self.body = body
        self._delivery = delivery
        self.parent = parent
        self.fault = fault

    @property
    def delivery(self) -> Delivery:
        """The next delivery; the first is made on demand, as many thousand may wait."""
        if self._delivery is None:
            self._delivery = Delivery(eta=self.due)
        return self._delivery

    def again(
        self, due: float, delivery: Delivery, fault: str | None = None
    ) -> Waiting:
        """The same message for one more delivery."""
        return Waiting(
            due, self.order, self.message, self.body, delivery, self.parent, fault
        )


class MemoryQueue:
    """Messages that wait, earliest first; safe for many threads.

    `running` is the current delivery. `trouble`, if set, is called before and after a
    message is accepted, and may raise an error for the sender. `is_disturbed` is true
    after a simulated crash or outage, when an outbox may have rows left. `misfortunes`
    describes the test's runs with faults. `refused` has, by key, the calls from an
    outbox whose name was taken, with the error; production parks their rows. Once the
    test has got an error, None replaces it.
    """

    def __init__(self) -> None:
        self.lock = threading.RLock()
        # Tuples compare in C: (due, order, tie-breaker, waiting).
        self.heap: list[tuple[float, int, int, Waiting]] = []
        self.names: dict[tuple[str, str], str] = {}  # with the key of its message
        self.pushed = 0
        self.ties = 0
        self.running: Waiting | None = None
        self.trouble: Callable[[Message, Stage], None] | None = None
        self.is_disturbed = False
        self.misfortunes: list[str] = []
        self.refused: dict[str, Refusal | None] = {}
        self.eagerness = 0  # eager calls that run inside one another

    def push(self, message: Message, body: bytes) -> bool:
        """Accept `message`; False if its name is taken: here it is never free again."""
        due = message.eta or message.created
        key = (message.queue, message.name)
        with self.lock:
            if key in self.names:
                return False
            self.names[key] = message.key
            self.pushed = order = self.pushed + 1
            waiting = Waiting(due, order, message, body, None, self.running)
            heapq.heappush(self.heap, (due, order, 0, waiting))
        return True

    def pop(self) -> Waiting | None:
        """The next message, or None when nothing waits."""
        with self.lock:
            return heapq.heappop(self.heap)[3] if self.heap else None

    def take(self, ids: Collection[str]) -> list[Waiting]:
        """Remove the messages of these calls, and return them in order."""
        with self.lock:
            taken = [item for item in self.heap if item[3].message.id in ids]
            if taken:
                self.heap = [
                    item for item in self.heap if item[3].message.id not in ids
                ]
                heapq.heapify(self.heap)
        return [item[3] for item in sorted(taken)]

    def remove(self, name: tuple[str, str]) -> bool:
        """Remove the message of a queue and a name; its name stays taken."""
        with self.lock:
            kept = [
                item
                for item in self.heap
                if (item[3].message.queue, item[3].message.name) != name
            ]
            is_there = len(kept) < len(self.heap)
            self.heap = kept
            heapq.heapify(self.heap)
        return is_there

    def put_back(self, entries: Iterable[Waiting]) -> None:
        """Put `entries` into the queue, again or for one more delivery."""
        with self.lock:
            for entry in entries:
                self.ties += 1
                heapq.heappush(self.heap, (entry.due, entry.order, self.ties, entry))

    def has_had(self, message: Message) -> bool:
        """Whether `message` is in the queue, or was."""
        return (message.queue, message.name) in self.names

    def is_again(self, message: Message) -> bool:
        """Whether an earlier try of a relay or commit took the name for this message.

        The production transport asks the service, only for messages with a row.
        """
        holder = self.names.get((message.queue, message.name))
        return message.outboxed and holder == message.key

    def refuse(self, message: Message, error: DuplicateTask) -> None:
        """Keep the refusal of a message that has a row, once for all its tries."""
        if message.outboxed:
            self.refused.setdefault(message.key, (message, error))

    def take_refused(self) -> list[Refusal]:
        """The refusals since the last call, each of which is returned only once."""
        new = [refusal for refusal in self.refused.values() if refusal is not None]
        self.refused = dict.fromkeys(self.refused)
        return new

    def clear(self) -> None:
        with self.lock:
            self.heap.clear()
            self.names.clear()
            self.misfortunes.clear()
            self.refused.clear()
            self.trouble = None
            self.is_disturbed = False

    def __iter__(self) -> Iterator[Waiting]:
        with self.lock:
            return iter([item[3] for item in sorted(self.heap)])

    def __len__(self) -> int:
        return len(self.heap)


class _QueueOfTest:
    """The queue of the running test, which starts each test empty.

    With `is_told`, a part such as the pytest plugin empties it before each test.
    """

    def __init__(self) -> None:
        self.queue = MemoryQueue()
        self.is_told = False


_of_test = _QueueOfTest()


def queue() -> MemoryQueue:
    """The queue in this process, empty at the start of every test."""
    return _of_test.queue


def start_test(*, is_told: bool = False) -> None:
    """Empty the queue for a new test; with `is_told` the caller does so every time."""
    _of_test.is_told = is_told or _of_test.is_told
    _of_test.queue.clear()


@lru_cache(maxsize=1)
def _follow_unittest() -> None:
    """Have unittest start each test with an empty queue; its runners have no hook."""
    run = unittest.TestCase.run

    @wraps(run)
    def run_with_an_empty_queue(test: Any, result: Any = None) -> Any:
        if not _of_test.is_told:
            _of_test.queue.clear()
        return run(test, result)

    unittest.TestCase.run = run_with_an_empty_queue  # type: ignore[method-assign,assignment]


@contextmanager
def aside() -> Iterator[MemoryQueue]:
    """Use another, empty queue inside the block."""
    before, empty = queue(), MemoryQueue()
    _of_test.queue = empty
    try:
        yield empty
    finally:
        before.misfortunes += empty.misfortunes
        _of_test.queue = before


class MemoryTransport:
    """Puts messages into the queue of this process."""

    piggybacks = False  # a send must not relay rows that a test expects to find
    has_outages = False  # there is no server to wait for

    def __init__(self, options: Mapping[str, Any]) -> None:
        conf.check_backend_options("TRANSPORT", options, {})
        _follow_unittest()

    def send(self, message: Message) -> None:
        # No expiry, because tests set the clock ahead, or stop it in the past.
        body = envelope.seal(message, expires=envelope.NEVER)
        waiting = queue()
        if waiting.trouble is not None:
            waiting.trouble(message, "before")
        is_taken = not waiting.push(message, body)
        if is_taken and message.named and not waiting.is_again(message):
            error = DuplicateTask(
                f"Task {message.task} ({message.id}) was refused: a task named "
                f"{message.name!r} is in queue {message.queue!r}, or ran a short "
                "while ago."
            )
            waiting.refuse(message, error)
            raise error
        if waiting.trouble is not None:
            waiting.trouble(message, "after")

    def send_many(self, messages: Sequence[Message]) -> list[EnqueueError | None]:
        return [self._error_of(message) for message in messages]

    def delete(self, queue_id: str, name: str) -> bool:
        return queue().remove((queue_id, name))

    def _error_of(self, message: Message) -> EnqueueError | None:
        try:
            self.send(message)
        except EnqueueError as error:
            return error
        return None
