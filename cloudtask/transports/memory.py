"""A queue in this process, for tests: the same bytes, no network."""

from __future__ import annotations

import heapq
import sys
import threading
import unittest
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from django.core import mail

from cloudtask import conf, envelope
from cloudtask.exceptions import DuplicateTask, EnqueueError
from cloudtask.message import Message


@dataclass(frozen=True, slots=True, order=True)
class Waiting:
    """A sealed message in the queue; ordered as Cloud Tasks would dispatch."""

    due: float
    order: int
    message: Message = field(compare=False)
    body: bytes = field(compare=False)
    retries: int = field(compare=False, default=0)


class MemoryQueue:
    """Messages that wait, earliest first; safe for many threads."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.heap: list[Waiting] = []
        self.names: set[tuple[str, str]] = set()
        self.pushed = 0

    def push(
        self, message: Message, body: bytes, *, due: float, retries: int = 0
    ) -> None:
        with self.lock:
            self.pushed += 1
            entry = Waiting(due, self.pushed, message, body, retries)
            heapq.heappush(self.heap, entry)

    def pop(self) -> Waiting | None:
        """The next message, or None when nothing waits."""
        with self.lock:
            return heapq.heappop(self.heap) if self.heap else None

    def put_back(self, entries: Sequence[Waiting]) -> None:
        with self.lock:
            for entry in entries:
                heapq.heappush(self.heap, entry)

    def claim_name(self, message: Message) -> bool:
        """Take the name of `message` for good; False when it is taken already."""
        with self.lock:
            key = (message.queue, message.name)
            if key in self.names:
                return False
            self.names.add(key)
            return True

    def clear(self) -> None:
        with self.lock:
            self.heap.clear()
            self.names.clear()

    def __iter__(self) -> Iterator[Waiting]:
        with self.lock:
            return iter(sorted(self.heap))

    def __len__(self) -> int:
        return len(self.heap)


class _QueueOfTest:
    """The queue of the test that runs; Django's runner tells nobody when one starts.

    But it gives each test a new `mail.outbox`: a look at that is cheap, and only when
    it changed, which a test may also do itself, the running test is looked up.
    """

    def __init__(self) -> None:
        self.queue = MemoryQueue()
        self.mailbox: object = None
        self.test: object = None

    def get(self) -> MemoryQueue:
        mailbox = getattr(mail, "outbox", None)
        if mailbox is not self.mailbox:
            self.mailbox = mailbox
            test = _running_test()
            if test is not None and test is not self.test:
                self.test = test
                self.queue.clear()
        return self.queue


def _running_test() -> object:
    """The unittest.TestCase whose `run` is on this thread's stack."""
    frame = sys._getframe()
    while frame.f_back is not None:
        frame = frame.f_back
        if frame.f_code is unittest.TestCase.run.__code__:
            return frame.f_locals.get("self")
    return None


_of_test = _QueueOfTest()


def queue() -> MemoryQueue:
    """The queue in this process, empty at the start of every test."""
    return _of_test.get()


class MemoryTransport:
    """Puts messages into the queue of this process."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        conf.check_backend_options("TRANSPORT", options, set())

    def send(self, message: Message) -> None:
        body = envelope.seal(message)
        waiting = queue()
        if not waiting.claim_name(message):
            if message.named:
                raise DuplicateTask(
                    f"Task {message.task} ({message.id}) was refused: a task named "
                    f"{message.name!r} is in queue {message.queue!r}, or ran a short "
                    "while ago."
                )
            return
        waiting.push(message, body, due=message.eta or message.created)

    def send_many(self, messages: Sequence[Message]) -> list[EnqueueError | None]:
        return [self._error_of(message) for message in messages]

    def _error_of(self, message: Message) -> EnqueueError | None:
        try:
            self.send(message)
        except EnqueueError as error:
            return error
        return None
