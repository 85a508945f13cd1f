"""Google's emulators of Datastore, one of each kind for a whole run of the tests.

The first test that wants one starts it, and all worker processes share it. The
variables CLOUDTASK_TEST_DATASTORE and CLOUDTASK_TEST_FIRESTORE name others that run
already, as host:port. In CI both must be there; elsewhere their tests are skipped.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import IO

import pytest

from cloudtask import datastore_emulator
from cloudtask.datastore_emulator import Running

VARIABLES = {
    "datastore": "CLOUDTASK_TEST_DATASTORE",
    "firestore": "CLOUDTASK_TEST_FIRESTORE",
}


MARK = "datastore"


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", f"{MARK}: uses an emulator of Datastore")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that use an emulator, so that a leg can leave them out."""
    for item in items:
        params = getattr(getattr(item, "callspec", None), "params", {}).values()
        is_named = any(one in VARIABLES for one in params if isinstance(one, str))
        if is_named or "datastore_at" in getattr(item, "fixturenames", ()):
            item.add_marker(MARK)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """One line if an emulator was not found."""
    missing = [why for kind in VARIABLES if (why := why_missing(kind))]
    if missing:
        terminalreporter.write_line(f"Datastore was not tested. {missing[0]}")


@cache
def why_missing(kind: str) -> str | None:
    if os.environ.get(VARIABLES[kind]):
        return None
    return datastore_emulator.why_not_installed(kind)


class Emulators:
    """The addresses of the emulators; `folder` is common to all workers."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._addresses: dict[str, str] = {}
        self._held: list[IO[str]] = []
        self._started: list[tuple[Running, IO[str]]] = []

    def require(self, kind: str) -> None:
        """Skip the test if the emulator is missing; in CI the test fails."""
        if problem := why_missing(kind):
            (pytest.fail if "CI" in os.environ else pytest.skip)(problem)

    def address(self, kind: str) -> str:
        self.require(kind)
        if kind not in self._addresses:
            named = os.environ.get(VARIABLES[kind])
            self._addresses[kind] = named or self._shared(kind)
        return self._addresses[kind]

    def _shared(self, kind: str) -> str:
        """The emulator of this run, which the first worker starts."""
        users = self._locked(f"{kind}.users", fcntl.LOCK_SH)
        with self._locked(f"{kind}.starting", fcntl.LOCK_EX):
            told = self._folder / f"{kind}.address"
            if told.exists():
                self._held.append(users)
                return told.read_text()
            running = datastore_emulator.start(kind)
            self._started.append((running, users))
            told.write_text(running.address)
            return running.address

    def _locked(self, name: str, how: int) -> IO[str]:
        file = (self._folder / name).open("a")
        fcntl.flock(file, how)
        return file

    def stop(self) -> None:
        for users in self._held:
            users.close()
        for running, users in self._started:
            # Other workers may still use it.
            fcntl.flock(users, fcntl.LOCK_EX)
            running.stop()
            users.close()


@pytest.fixture(scope="session")
def emulators(
    tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Iterator[Emulators]:
    folder = tmp_path_factory.getbasetemp()
    if hasattr(request.config, "workerinput"):
        folder = folder.parent
    found = Emulators(folder)
    yield found
    found.stop()
