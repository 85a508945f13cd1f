"""Server processes, each the head of a process group of its own, none left behind."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from tests.support.waiting import PATIENCE, wait_until

T = TypeVar("T")

ROOT = Path(__file__).resolve().parent.parent.parent


@contextmanager
def running(
    command: Sequence[str | Path],
    log: Path,
    *,
    environ: Mapping[str, str] = {},
    pass_fds: Sequence[int] = (),
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server around a block; what it prints goes into the file `log`."""
    with log.open("ab") as output:
        process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=os.environ | environ,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            pass_fds=pass_fds,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        stop(process)


def stop(process: subprocess.Popen[bytes]) -> None:
    """End the whole group: in order, else by force."""
    _signal(process, signal.SIGTERM)
    try:
        process.wait(PATIENCE)
    except subprocess.TimeoutExpired:
        _signal(process, signal.SIGKILL)
        process.wait()
    wait_until(lambda: not _signal(process, signal.SIGKILL), "The group is gone")


def _signal(process: subprocess.Popen[bytes], number: signal.Signals) -> bool:
    """Signal the group; whether there was one."""
    try:
        os.killpg(process.pid, number)
    except ProcessLookupError:
        return False
    return True


def wait_for_server(
    process: subprocess.Popen[bytes], look: Callable[[], T | None], log: Path
) -> T:
    """As `wait_until`, but not longer than the process lives."""

    def look_while_alive() -> T | None:
        found = look()
        if not found and process.poll() is not None:
            raise AssertionError(
                f"{process.args!r} ended with {process.returncode}: {_tail(log)}"
            )
        return found

    what = f"{process.args!r} answers"
    return wait_until(look_while_alive, what, lambda: _tail(log))


def _tail(log: Path) -> str:
    return log.read_text(errors="replace")[-4000:]
