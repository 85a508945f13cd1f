"""A second delivery in the middle of the first, on the same thread and connection.

What one connection can show of two processes: the second runs from start to end at one
moment of the first: before its function, after it, or between two of its statements.
Never inside a transaction of the function, where a database would keep them apart.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from django.db import connections

from cloudtask import failpoints

STATEMENTS = 3  # the second delivery comes before one of the first statements


class _Rival:
    """Arrives once, at the moment that was chosen, or else when the function ends."""

    def __init__(self, moment: int, arrive: Callable[[], None]) -> None:
        self.left = moment
        self.arrive = arrive
        self.has_come = False
        self.depths: dict[str, int] = {}

    def come(self) -> None:
        if not self.has_come:
            self.has_come = True
            self.arrive()

    def before_call(self) -> None:
        self.depths = {
            connection.alias: len(connection.atomic_blocks)
            for connection in connections.all(initialized_only=True)
        }
        if self.left == 0:
            self.come()

    def before_statement(
        self, execute: Any, sql: str, params: Any, many: bool, context: Any
    ) -> Any:
        connection = context["connection"]
        depth = self.depths.get(connection.alias)
        if not self.has_come and len(connection.atomic_blocks) == depth:
            self.left -= 1
            if self.left == 0:
                self.come()
        return execute(sql, params, many, context)


@contextmanager
def rival_inside(chance: random.Random, arrive: Callable[[], None]) -> Iterator[None]:
    """Have `arrive` called once, inside the delivery that the block makes."""
    rival = _Rival(chance.randint(0, STATEMENTS), arrive)
    with ExitStack() as stack:
        for connection in connections.all(initialized_only=True):
            stack.enter_context(connection.execute_wrapper(rival.before_statement))
        stack.enter_context(failpoints.at("execute.before_call", rival.before_call))
        stack.enter_context(failpoints.at("execute.after_call", rival.come))
        yield
