"""Pieces of a queryset, each of which becomes a shard, and the exact way to cut them.

That way is a walk along the index that finds every n-th key, one OFFSET after the
other. The number of rows need not be known: when there are too many marks, every second
one is dropped. So the marks lie evenly, whatever the size of the table, and the walk
can end and go on at any of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from django.db import Error

from cloudtask import codec
from cloudtask.iteration.bounds import Bounds
from cloudtask.stores.transactions import is_statement_timeout

if TYPE_CHECKING:
    from django.db.models import QuerySet

MAX_SHARDS = 256
# While nothing is known about the time of a row. Some workers are to have a part of a
# small table, too, but a shard of fewer rows costs more than it spares.
ROWS_A_SHARD = 20_000
FEW_SHARDS, LEAST_ROWS = 8, 1000

COUNTED = 1_000_000  # rows; counting more at once may take too long
MARKS = 8  # for each shard; more are thinned out
SLOW_STEP = 500  # rows, if a query is slow

IsOver = Callable[[], bool]  # whether the planner must hand over to a successor


def never() -> bool:
    """The `IsOver` of a planner that need not hand over."""
    return False


@dataclass(frozen=True, slots=True)
class Piece:
    """A future shard, and about how many rows it has."""

    bounds: Bounds
    expected: int


@dataclass(frozen=True, slots=True)
class Rest:
    """Where a walk along the index goes on: above `cursor`, up to and including `last`.

    `step` is the number of rows between two of its marks. `shards` is the number of
    shards that may still be made. With a `share` the walk is along the whole table, of
    whose rows the queryset has about that share, and `stride` is that of the plan.
    """

    cursor: Any
    last: Any
    step: int
    shards: int
    share: float | None = None
    stride: int | None = None

    def as_text(self) -> str:
        """Text for the row of the run; `rest_of` reads it."""
        values = [self.cursor, self.last, self.step, self.shards]
        return codec.dumps([*values, self.share, self.stride]).decode()


def rest_of(text: str | None) -> Rest | None:
    """A rest from its text; raises PayloadError."""
    return None if text is None else Rest(*codec.loads(text.encode()))


@dataclass(frozen=True, slots=True)
class Plan:
    """Pieces, and the number of rows in them. With a `rest` the plan is not complete.

    `is_estimated` tells that the rows were not counted. A query of a shard is to look
    at `stride` keys of the table at most; None is no bound.
    """

    pieces: tuple[Piece, ...]
    total: int
    rest: Rest | None = None
    is_estimated: bool = False
    stride: int | None = None


def shards_for(rows: int) -> int:
    """How many shards a number of rows gets if the caller does not say."""
    few = min(FEW_SHARDS, math.ceil(rows / LEAST_ROWS))
    return max(1, few, min(MAX_SHARDS, math.ceil(rows / ROWS_A_SHARD)))


def of_keys(keys: Sequence[Any], shards: int, *, include_new: bool) -> Plan:
    """Exact pieces of a list of all keys, in their order."""
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
    pieces = between(None, highs, [expected] * len(highs))
    return Plan(pieces, total, is_estimated=True)


def between(low: Any, highs: Sequence[Any], sizes: Sequence[int]) -> tuple[Piece, ...]:
    """Pieces above `low` that end at `highs`, in the order of the database."""
    ranges = pairwise([low, *highs])
    return tuple(
        Piece(Bounds(*one), size) for one, size in zip(ranges, sizes, strict=True)
    )


def keys_of(queryset: QuerySet[Any]) -> QuerySet[Any]:
    """The keys of a queryset, in the order of the database."""
    return queryset.order_by("pk").values_list("pk", flat=True)


# The walk along the index


@dataclass(frozen=True, slots=True)
class Walked:
    """`marks` are keys, `step` rows apart from `cursor` on. `tail` is the number of
    rows above the last mark, or None if the walk has not reached the end."""

    cursor: Any
    marks: Sequence[Any]
    step: int
    tail: int | None

    @property
    def rows(self) -> int:
        return len(self.marks) * self.step + (self.tail or 0)


def begin(
    queryset: QuerySet[Any],
    shards: int | None,
    last: Any,
    include_new: bool,
    is_over: IsOver,
    is_slow: bool,
) -> Plan:
    """The first part of a plan, or all of it, of the rows up to and including
    `last`."""
    keys = keys_of(queryset)
    step = SLOW_STEP if is_slow else _first_step(Bounds(None, last).of(keys), shards)
    rest = Rest(None, last, step, shards or MAX_SHARDS)
    return go_on(queryset, rest, shards, include_new, is_over)


def go_on(
    queryset: QuerySet[Any],
    rest: Rest,
    shards: int | None,
    include_new: bool,
    is_over: IsOver,
) -> Plan:
    """The next part of a plan, or all that is left; `shards` is what was asked for."""
    walked = _walk(keys_of(queryset), rest, is_over)
    # The last shard takes all that is left, however much that is.
    is_end = walked.tail is not None or rest.shards == 1
    # A part takes half of the shards that are left: the others may have more rows.
    allowed = rest.shards if is_end else rest.shards // 2
    wanted = allowed if shards else min(allowed, shards_for(walked.rows))
    if is_end:
        end = None if include_new else rest.last
        return Plan(_pieces(walked, wanted, end), walked.rows)
    pieces = _pieces(walked, wanted, walked.marks[-1])
    left = replace(
        rest,
        cursor=walked.marks[-1],
        step=walked.step,
        shards=rest.shards - len(pieces),
    )
    return Plan(pieces, walked.rows, left)


def _first_step(keys: QuerySet[Any], shards: int | None) -> int:
    """Just as many rows as the shards ask for, if the rows can be counted."""
    try:
        total = max(1, keys[:COUNTED].count())
    except Error as error:
        if not is_statement_timeout(error):
            raise
        return SLOW_STEP
    if total < COUNTED:
        return math.ceil(total / (shards or shards_for(total)))
    return math.ceil(COUNTED / (shards or COUNTED // ROWS_A_SHARD) / (MARKS // 2))


def _walk(keys: QuerySet[Any], rest: Rest, is_over: IsOver) -> Walked:
    """Set marks until the end, or until `is_over`, but one mark at least.

    If a step runs into a statement timeout, it becomes smaller, and what was walked so
    far is a part of its own.
    """
    most, step = MARKS * rest.shards, rest.step
    marks: list[Any] = []
    while not (marks and is_over()):
        above = Bounds(marks[-1] if marks else rest.cursor, rest.last).of(keys)
        try:
            found = list(above[step - 1 : step])
            tail = None if found else above.count()
        except Error as error:
            if step == 1 or not is_statement_timeout(error):
                raise
            if marks:
                break
            step = step // 2
            continue
        if not found:
            return Walked(rest.cursor, marks, step, tail)
        marks += found
        if len(marks) == most:
            marks, step = marks[1::2], 2 * step
    return Walked(rest.cursor, marks, step, None)


def _pieces(walked: Walked, wanted: int, end: Any) -> tuple[Piece, ...]:
    """`wanted` pieces of about the same size, or fewer, the last one up to `end`."""
    marks, step, rows = walked.marks, walked.step, walked.rows
    places = {round(rows * n / wanted / step) for n in range(1, wanted)}
    # Rows that were added meanwhile may have made the tail longer than a step.
    inner = sorted(p for p in places if 0 < p * step < rows and p <= len(marks))
    highs = [*(marks[place - 1] for place in inner), end]
    ends = [*(place * step for place in inner), rows]
    sizes = [above - below for below, above in zip([0, *ends], ends, strict=False)]
    return between(walked.cursor, highs, sizes)
