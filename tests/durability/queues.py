"""A queue that can be away, lack queues, and lose its answers: a transport."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any

from cloudtask import envelope
from cloudtask.exceptions import (
    DuplicateTask,
    EnqueueError,
    EnqueueUnavailable,
    QueueNotFound,
)
from cloudtask.message import Message

PATH = "tests.durability.queues.LocalQueue"


class LocalQueue:
    """Holds sealed bodies by name; `refusals` are raised for messages of that id."""

    piggybacks = False

    def __init__(self, options: Mapping[str, Any]) -> None:
        self.lock = threading.Lock()
        self.bodies: dict[tuple[str, str], bytes] = {}
        self.received: list[str] = []  # every key that came, again or not
        self.is_down = False
        self.loses_answers = False
        self.missing: set[str] = set()
        self.refusals: dict[str, Exception] = {}
        self.tries = 0
        self.batches: list[int] = []  # how many messages came together

    @property
    def messages(self) -> list[Message]:
        with self.lock:
            bodies = list(self.bodies.values())
        return [envelope.unseal(body, now=0.0) for body in bodies]

    def send(self, message: Message) -> None:
        with self.lock:
            self.tries += 1
            self._refuse(message)
            self._take(message, envelope.seal(message))
        if self.loses_answers:
            raise EnqueueUnavailable("The answer was lost.")

    def send_many(self, messages: Sequence[Message]) -> list[EnqueueError | None]:
        self.batches.append(len(messages))
        return [self._error_of(message) for message in messages]

    def _error_of(self, message: Message) -> EnqueueError | None:
        try:
            self.send(message)
        except EnqueueError as error:
            return error
        return None

    def _refuse(self, message: Message) -> None:
        if self.is_down:
            raise EnqueueUnavailable("Cloud Tasks is down.")
        if message.queue in self.missing:
            raise QueueNotFound(f"There is no queue {message.queue!r}.")
        if message.id in self.refusals:
            raise self.refusals[message.id]

    def _take(self, message: Message, body: bytes) -> None:
        self.received.append(message.key)
        place = (message.queue, message.name)
        there = self.bodies.setdefault(place, body)
        if message.named and envelope.unseal(there, now=0.0).key != message.key:
            raise DuplicateTask(f"The name {message.name!r} is taken.")
