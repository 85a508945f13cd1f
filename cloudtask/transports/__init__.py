"""Defines the transport, by which messages leave this process."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Protocol

from cloudtask import conf
from cloudtask.exceptions import EnqueueError
from cloudtask.message import Message


class Transport(Protocol):
    """Takes messages out of this process.

    Every implementation passes tests/transports/contract.py. With a class attribute
    `piggybacks = False` no commit relays, beside its own messages, the rows of others.
    With `has_outages = False` a failure does not keep the next commits from sending.
    """

    def send(self, message: Message) -> None:
        """Hand over `message`; when this returns, it is durable.

        A message with a generated name that was handed over before counts as sent. When
        the caller chose the name and it is in use, raises DuplicateTask. Raises another
        EnqueueError for other failures.
        """
        ...

    def send_many(self, messages: Sequence[Message]) -> list[EnqueueError | None]:
        """Hand over many: for each message, in order, its error or None."""
        ...

    def delete(self, queue: str, name: str) -> bool:
        """Remove a task that waits; False if there is none. The name stays taken."""
        ...


@lru_cache(maxsize=8)
def _made(settings: conf.Settings, path: str) -> Transport:
    options = conf.transport_options(settings)
    made: Transport = conf.backend("TRANSPORT", options)(options)
    return made


def transport() -> Transport:
    """The transport in force; raises ConfigurationError."""
    settings = conf.settings()
    return _made(settings, conf.transport_options(settings)["BACKEND"])


@lru_cache(maxsize=8)
def _checked(settings: conf.Settings, path: str) -> None:
    check = getattr(_made(settings, path), "check", None)
    if check is not None:
        check()


def check_settings() -> None:
    """Raise ConfigurationError when a setting is missing that sending will need.

    A transport may have `check()`, which raises it. A message that waits for a commit
    is sent after it, where the caller can't be told any more.
    """
    settings = conf.settings()
    _checked(settings, conf.transport_options(settings)["BACKEND"])
