"""A process that enqueues calls of one peer: it takes orders as lines of JSON.

`benchmarks.processes.Caller` is the other side. The environment names the peer.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import version
from typing import Any

import django

LATENCY_PAUSE = 0.0003  # seconds between two looks for the end of a call
MEMBERS = 100  # of a group
WALK = 3600.0  # seconds
# Ways to enqueue, and what a peer must have for it.
WAYS = {
    "singly": None,
    "committed": None,
    "many": "enqueue_many",
    "relayed": "backlog",
}
STALL = 90.0  # seconds in which nothing that was enqueued may stay undone


class Orders:
    """The orders that a caller takes. Each method is a verb."""

    def __init__(self, peer: Any) -> None:
        from benchmarks.site.work import Ledger

        self.peer = peer
        self.ledger = Ledger()
        self.next = 0

    def describe(self) -> dict[str, Any]:
        peer = self.peer
        return {
            "title": peer.TITLE,
            "promise": peer.PROMISE,
            "keeps": peer.KEEPS,
            "ports": getattr(peer, "PORTS", ()),
            "versions": {name: version(name) for name in peer.PACKAGES},
            "ways": [
                way
                for way, needs in WAYS.items()
                if needs is None or hasattr(peer, needs)
            ],
        }

    def workers(self) -> list[list[str]]:
        return self.peer.workers()  # type: ignore[no-any-return]

    def hold(self) -> None:
        self.peer.hold()

    def prepare(self) -> None:
        self.peer.prepare()

    def through(self, way: str, count: int, milliseconds: int = 0) -> dict[str, float]:
        """Enqueue so many calls and wait until all have run; calls a second."""
        numbers = self._numbers(count)
        send = getattr(self, f"_{way}")
        started = time.monotonic()
        send(numbers, milliseconds)
        enqueued = time.monotonic()
        if not self.ledger.wait(numbers, STALL):
            done = sum(number in self.ledger.moments for number in numbers)
            raise RuntimeError(f"only {done} of {count} calls ran within {STALL:g} s")
        ended = max(self.ledger.moments[number] for number in numbers)
        return {
            "rate": count / (ended - started),
            "enqueue": count / (enqueued - started),
        }

    def enqueue(self, way: str, count: int) -> float:
        """Enqueue so many calls, and wait for none; seconds for each."""
        numbers = self._numbers(count)
        started = time.monotonic()
        if way == "relayed":
            self.peer.backlog(numbers)
            started = time.monotonic()
            self.peer.relay()
        else:
            getattr(self, f"_{way}")(numbers, 0)
        return (time.monotonic() - started) / count

    def timed(self, function: str, count: int) -> float:
        """The figures that a function of the peer measures itself."""
        return float(getattr(self.peer, function)(count))

    def latency(self, most: int, seconds: float) -> list[float]:
        """Seconds from before each call to its start; the workers have no others."""
        found = []
        give_up = time.monotonic() + seconds
        while len(found) < most and time.monotonic() < give_up:
            numbers = self._numbers(1)
            started = time.monotonic()
            self._singly(numbers, 0)
            if not self.ledger.wait(numbers, STALL, LATENCY_PAUSE):
                raise RuntimeError(f"a call did not run within {STALL:g} s")
            found.append(self.ledger.moments[numbers[0]] - started)
        return found

    def walk(self, rows: int, *, together: bool, bare: bool = False) -> float:
        """Change each row once, by an UPDATE of its own or one for many; rows a second.
        The rows are new."""
        from benchmarks.site import rows as table

        table.fill(rows)
        if bare:
            started = time.monotonic()
            table.bare_loop()
            ended = time.monotonic()
        else:
            numbers = self._numbers(self.peer.notes(rows))
            started = time.monotonic()
            self.peer.walk(numbers, rows, together=together)
            if not self.ledger.wait(numbers, WALK):
                raise RuntimeError(f"the walk did not end within {WALK:g} s")
            ended = max(self.ledger.moments[number] for number in numbers)
        if (changes := table.changes()) != rows:
            raise RuntimeError(f"{changes} changes of {rows} rows")
        return rows / (ended - started)

    def _numbers(self, count: int) -> range:
        self.next += count
        return range(self.next - count, self.next)

    def _singly(self, numbers: range, milliseconds: int) -> None:
        enqueue = self.peer.enqueue
        for number in numbers:
            enqueue(number, milliseconds)

    def _many(self, numbers: range, milliseconds: int) -> None:
        self.peer.enqueue_many(numbers)

    def _chains(self, numbers: range, milliseconds: int) -> None:
        for number in numbers:
            self.peer.chained(number)

    def _groups(self, numbers: range, milliseconds: int) -> None:
        for number in numbers:
            self.peer.grouped(number, MEMBERS)

    def _committed(self, numbers: range, milliseconds: int) -> None:
        """In a transaction each, which also writes a row, as an application does."""
        from django.db import transaction

        from benchmarks.site.models import Order

        enqueue = self._committing(milliseconds)
        for number in numbers:
            with transaction.atomic():
                Order.objects.create(number=number)
                enqueue(number)

    def _committing(self, milliseconds: int) -> Callable[[int], object]:
        from django.db import transaction

        peer = self.peer
        if peer.IN_TRANSACTION:
            return lambda number: peer.enqueue(number, milliseconds)
        return lambda number: transaction.on_commit(
            lambda: peer.enqueue(number, milliseconds)
        )


def main() -> None:
    answers, sys.stdout = sys.stdout, sys.stderr  # what a peer prints goes to the log
    django.setup()
    orders = Orders(import_module(f"benchmarks.peers.{os.environ['BENCH_PEER']}"))
    for line in sys.stdin:
        order = json.loads(line)
        try:
            answer = {"value": getattr(orders, order.pop("verb"))(**order)}
        except Exception as error:  # noqa: BLE001  the other side says it
            answer = {"error": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
