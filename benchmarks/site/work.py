"""The work of a call, the same in every peer: wait, then note the moment in a file.

The file takes two microseconds a call, and all processes of the machine share its
clock. So it measures every peer alike, whatever its results are kept in.
"""

from __future__ import annotations

import os
import struct
import time
from functools import cache
from pathlib import Path

_RECORD = struct.Struct("=Qd")


def work(number: int, milliseconds: int = 0) -> None:
    if milliseconds:
        time.sleep(milliseconds / 1000)
    note(number)


def note(number: int) -> None:
    """Add a record to the ledger. The system appends it whole."""
    os.write(_ledger(), _RECORD.pack(number, time.monotonic()))


def path() -> Path:
    return Path(os.environ["BENCH_FOLDER"]) / "ledger"


@cache
def _ledger() -> int:
    return os.open(path(), os.O_WRONLY | os.O_APPEND | os.O_CREAT)


class Ledger:
    """Reads what was added since the last look."""

    def __init__(self) -> None:
        _ledger()
        self._file = path().open("rb", buffering=0)
        self.moments: dict[int, float] = {}  # the first time of each number
        self.repeated = 0

    def look(self) -> None:
        data = self._file.read()
        whole = len(data) - len(data) % _RECORD.size
        self._file.seek(whole - len(data), os.SEEK_CUR)
        for number, moment in _RECORD.iter_unpack(data[:whole]):
            self.repeated += number in self.moments
            self.moments.setdefault(number, moment)

    def wait(self, numbers: range, seconds: float, pause: float = 0.005) -> bool:
        """Wait until all these numbers are there; False when the time is over."""
        give_up = time.monotonic() + seconds
        found = 0
        while True:
            self.look()
            # Calls end about in order, so a count from the front suffices.
            while found < len(numbers) and numbers[found] in self.moments:
                found += 1
            if found == len(numbers):
                return True
            if time.monotonic() > give_up:
                return False
            time.sleep(pause)
