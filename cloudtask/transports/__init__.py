"""How a message leaves this process."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Protocol

from cloudtask import conf
from cloudtask.exceptions import EnqueueError
from cloudtask.message import Message


class Transport(Protocol):
    """One way out. Every implementation passes tests/transports/contract.py."""

    def send(self, message: Message) -> None:
        """Hand over `message`; when this returns, it is durable.

        A message with a generated name that was handed over before counts as sent.
        Raises DuplicateTask for a name of the caller's own that is in use, else
        another EnqueueError.
        """
        ...

    def send_many(self, messages: Sequence[Message]) -> list[EnqueueError | None]:
        """Hand over many: for each message, in order, its error or None."""
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

    A transport may have `check()`, which raises it. What waits for a commit is sent
    when nobody is there any more to be told.
    """
    settings = conf.settings()
    _checked(settings, conf.transport_options(settings)["BACKEND"])
