"""How others walk in shards: what each hazard does to them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from cloudtask.failpoints import Crashed


class CountingRun:
    """A marker that counts the shards that are complete; the one that reaches the total
    removes it and enqueues finalize. Shards without a marker have nothing to do."""

    def __init__(self, *shards: Sequence[Any], keeps_marker: bool = False) -> None:
        self.shards = shards
        self.keeps_marker = keeps_marker
        self.has_marker = True
        self.complete = 0
        self.calls: list[Any] = []
        self.commit_answers = True
        self.before_create: Callable[[], None] = lambda: None

    def deliver(self, index: int) -> None:
        """One delivery of a shard, through to its end."""
        self.walk(index)
        self.count()
        self.compare()

    def walk(self, index: int) -> None:
        if not self.has_marker:
            return
        self.calls.extend(self.shards[index])

    def count(self) -> None:
        if self.has_marker:
            self.complete += 1
            if not self.commit_answers:
                self.complete += 1  # tried again: the first one had happened

    def compare(self) -> None:
        if self.has_marker and self.complete == len(self.shards):
            self.has_marker = self.keeps_marker
            self.before_create()
            self.calls.append("finalize")


class Leg:
    """A delivery that walks some keys, then enqueues a continuation by its start."""

    def __init__(self, keys: Sequence[Any], rows: int) -> None:
        self.keys, self.rows = keys, rows
        self.calls: list[Any] = []
        self.queue = [0]

    def deliver(self, *, dies_after: int | None = None, answers: bool = True) -> None:
        start = self.queue.pop(0)
        for place, key in enumerate(self.keys[start : start + self.rows]):
            if place == dies_after:
                self.queue.append(start)
                return
            self.calls.append(key)
        if start + self.rows < len(self.keys):
            self.queue.append(start + self.rows)
        if not answers:
            self.queue.append(start)

    def drain(self) -> None:
        while self.queue:
            self.deliver()


def dies() -> None:
    raise Crashed
