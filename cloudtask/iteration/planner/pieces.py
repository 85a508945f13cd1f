"""What a planner makes: pieces, each a shard to be."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from cloudtask import codec
from cloudtask.iteration.bounds import Bounds

MAX_SHARDS = 256
ROWS_A_SHARD = 20_000  # when nothing is known about the time of a row

IsOver = Callable[[], bool]  # whether the planner must hand over to a successor


def never() -> bool:
    """For a planner that need not hand over."""
    return False


@dataclass(frozen=True, slots=True)
class Piece:
    """A shard to be, and about how many rows lie in it."""

    bounds: Bounds
    expected: int


@dataclass(frozen=True, slots=True)
class Rest:
    """Where a walk along the index goes on: above `cursor`, up to and with `last`.

    `step` is the number of rows between two of its marks, `shards` how many are left to
    be made.
    """

    cursor: Any
    last: Any
    step: int
    shards: int

    def as_text(self) -> str:
        """For the run's row; the reverse of `rest_of`."""
        return codec.dumps([self.cursor, self.last, self.step, self.shards]).decode()


def rest_of(text: str | None) -> Rest | None:
    """A rest from its text; raises PayloadError."""
    return None if text is None else Rest(*codec.loads(text.encode()))


@dataclass(frozen=True, slots=True)
class Plan:
    """Pieces, and the number of rows in them; with a `rest` it is not all."""

    pieces: tuple[Piece, ...]
    total: int
    rest: Rest | None = None


def shards_for(rows: int) -> int:
    """How many shards so many rows get when the caller does not say."""
    return max(1, min(MAX_SHARDS, math.ceil(rows / ROWS_A_SHARD)))


def of_keys(keys: Sequence[Any], shards: int, *, include_new: bool) -> Plan:
    """Exact pieces of keys that are all known, in their order."""
    ends = [math.ceil(len(keys) * n / shards) for n in range(1, shards + 1)]
    highs = [keys[end - 1] for end in ends]
    if include_new:
        highs[-1] = None
    sizes = [end - start for start, end in pairwise([0, *ends])]
    return Plan(between(None, highs, sizes), len(keys))


def of_quantiles(cuts: Sequence[Any], end: Any, total: int) -> Plan:
    """Pieces of about the same size, between `cuts` and up to `end`."""
    highs = [*cuts, end]
    expected = max(1, round(total / len(highs)))
    return Plan(between(None, highs, [expected] * len(highs)), total)


def between(low: Any, highs: Sequence[Any], sizes: Sequence[int]) -> tuple[Piece, ...]:
    """Pieces above `low` that end at `highs`, which the database has ordered."""
    ranges = pairwise([low, *highs])
    return tuple(
        Piece(Bounds(*one), size) for one, size in zip(ranges, sizes, strict=True)
    )
