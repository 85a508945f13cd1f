from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from django.db import connections
from django.test import Client

from cloudtask import envelope
from cloudtask.message import Message
from cloudtask.transports import transport
from tests.durability import queues, tasks
from tests.durability.database import committing
from tests.durability.sites import emulator, site
from tests.support import clock
from tests.support.waiting import PATIENCE

__all__ = ["emulator", "site"]

# SQLite refuses one of several that open a file with a journal at the same moment.
_opening = threading.Lock()

TARGET = {"BACKEND": "cloudtask.targets.AppEngineTarget", "VERIFY": False}


@pytest.fixture
def committed(db: None, tmp_path: Path) -> Iterator[None]:
    """Databases without a transaction around the test."""
    with committing(tmp_path):
        yield


@pytest.fixture(autouse=True)
def _forgotten() -> None:
    tasks.contexts.clear()
    tasks.mended.clear()


@pytest.fixture
def configure(settings: Any) -> Callable[..., None]:
    """Set CLOUDTASK, with a LocalQueue for a transport."""

    def configured(**changes: Any) -> None:
        settings.CLOUDTASK = {
            "TRANSPORT": {"BACKEND": queues.PATH},
            "TARGET": TARGET,
            "TRUSTED_MODULES": ["tests.durability"],
            **changes,
        }

    configured()
    return configured


@dataclass
class World:
    """A service with its queue, and the clock of both."""

    @property
    def queue(self) -> queues.LocalQueue:
        found: Any = transport()
        return found

    def deliver(self, message: Message, *, retries: int = 0) -> int:
        """Deliver through the view; the status of the answer."""
        response = Client(raise_request_exception=False).post(
            f"/_cloudtask/run/{message.task}",
            envelope.seal(message),
            content_type="application/octet-stream",
            headers={
                "X-AppEngine-QueueName": message.queue,
                "X-AppEngine-TaskName": message.name,
                "X-AppEngine-TaskRetryCount": str(retries),
            },
        )
        return int(response.status_code)

    def deliver_all(self) -> list[int]:
        """Deliver what is in the queue, each message once; the answers."""
        return [self.deliver(message) for message in self.queue.messages]

    def deliver_at_once(self, messages: Sequence[Message]) -> list[int]:
        """Deliver `messages` at the same time, each in a thread of its own."""
        return in_threads([lambda m=m: self.deliver(m) for m in messages])

    def later(self, seconds: float) -> Any:
        """Set the clock of library and database ahead inside the block."""
        return clock.ahead(seconds)


def in_threads(actions: Sequence[Callable[[], Any]]) -> list[Any]:
    """Call all at the same time; each thread has connections of its own."""

    def run(action: Callable[[], Any]) -> Any:
        try:
            return action()
        finally:
            connections.close_all()

    with ThreadPoolExecutor(len(actions)) as pool:
        return list(pool.map(run, actions))


def at_once(actions: Sequence[Callable[[], Any]]) -> list[Any]:
    """Call all in threads that are connected, and begin at the same time."""
    barrier = threading.Barrier(len(actions))

    def run(action: Callable[[], Any]) -> Any:
        with _opening:
            connections["default"].ensure_connection()
        barrier.wait(PATIENCE)
        return action()

    return in_threads([partial(run, action) for action in actions])


@pytest.fixture
def world(configure: Callable[..., None], committed: None) -> World:
    return World()


def pytest_terminal_summary(terminalreporter: Any, config: Any) -> None:
    """With -v: which process was killed where, and what came of it."""
    if config.option.verbose < 1:
        return
    passed = terminalreporter.stats.get("passed", [])
    kills = [
        value for r in passed for name, value in r.user_properties if name == "kill"
    ]
    if kills:
        terminalreporter.section("killed by SIGKILL")
    for database, case, outcome in sorted(kills):
        terminalreporter.write_line(f"{database:11} {case:50} {outcome}")
