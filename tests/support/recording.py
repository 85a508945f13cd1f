"""A transport that keeps what it is given, with the bytes that would travel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cloudtask import envelope
from cloudtask.exceptions import EnqueueError
from cloudtask.message import Message

PATH = "tests.support.recording.RecordingTransport"
sent: list[Message] = []


class RecordingTransport:
    def __init__(self, options: Mapping[str, Any]) -> None:
        sent.clear()

    def send(self, message: Message) -> None:
        envelope.seal(message)
        sent.append(message)

    def send_many(self, messages: Sequence[Message]) -> list[EnqueueError | None]:
        for message in messages:
            self.send(message)
        return [None] * len(messages)


def bodies() -> list[bytes]:
    """The sealed bodies of what was sent."""
    return [envelope.seal(message) for message in sent]
