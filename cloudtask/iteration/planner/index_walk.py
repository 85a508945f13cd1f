"""A walk along the index: every n-th key, by one OFFSET after the other.

The number of rows need not be known: when there are too many marks, every second one is
forgotten. So the marks always lie evenly, whatever the table's size, and the walk can
end, and go on, at any of them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cloudtask.iteration.bounds import Bounds
from cloudtask.iteration.planner.pieces import (
    MAX_SHARDS,
    ROWS_A_SHARD,
    IsOver,
    Piece,
    Plan,
    Rest,
    between,
    shards_for,
)

if TYPE_CHECKING:
    from django.db.models import QuerySet

COUNTED = 1_000_000  # rows; counting more at once may take too long
MARKS = 8  # for each shard; more are thinned out
SLOW_STEP = 500  # rows, where a query is slow


@dataclass(frozen=True, slots=True)
class Walked:
    """`marks` are keys, `step` rows apart from `cursor` on; `tail` is the number of
    rows above the last one, None when the walk has not come to the end."""

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
    """The first part of a plan, or all of it; rows up to and with `last`."""
    keys = _keys(queryset)
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
    walked = _walk(_keys(queryset), rest, is_over)
    # The last shard takes all that is left, however much that is.
    is_end = walked.tail is not None or rest.shards == 1
    # A part takes half of the shards that are left: the others may have more rows.
    allowed = rest.shards if is_end else rest.shards // 2
    wanted = allowed if shards else min(allowed, shards_for(walked.rows))
    if is_end:
        end = None if include_new else rest.last
        return Plan(_pieces(walked, wanted, end), walked.rows)
    pieces = _pieces(walked, wanted, walked.marks[-1])
    left = Rest(walked.marks[-1], rest.last, walked.step, rest.shards - len(pieces))
    return Plan(pieces, walked.rows, left)


def _keys(queryset: QuerySet[Any]) -> QuerySet[Any]:
    return queryset.order_by("pk").values_list("pk", flat=True)


def _first_step(keys: QuerySet[Any], shards: int | None) -> int:
    """Just what the shards ask for, if the rows can be counted."""
    total = max(1, keys[:COUNTED].count())
    if total < COUNTED:
        return math.ceil(total / (shards or shards_for(total)))
    return math.ceil(COUNTED / (shards or COUNTED // ROWS_A_SHARD) / (MARKS // 2))


def _walk(keys: QuerySet[Any], rest: Rest, is_over: IsOver) -> Walked:
    """Set marks until the end, or until it `is_over`: one mark at least."""
    most, step = MARKS * rest.shards, rest.step
    marks: list[Any] = []
    while not (marks and is_over()):
        above = Bounds(marks[-1] if marks else rest.cursor, rest.last).of(keys)
        found = list(above[step - 1 : step])
        if not found:
            return Walked(rest.cursor, marks, step, above.count())
        marks += found
        if len(marks) == most:
            marks, step = marks[1::2], 2 * step
    return Walked(rest.cursor, marks, step, None)


def _pieces(walked: Walked, wanted: int, end: Any) -> tuple[Piece, ...]:
    """`wanted` pieces of about the same size, or fewer, the last one up to `end`."""
    marks, step, rows = walked.marks, walked.step, walked.rows
    places = {round(rows * n / wanted / step) for n in range(1, wanted)}
    # Rows that came meanwhile may have made the tail longer than a step.
    inner = sorted(p for p in places if 0 < p * step < rows and p <= len(marks))
    highs = [*(marks[place - 1] for place in inner), end]
    ends = [*(place * step for place in inner), rows]
    sizes = [above - below for below, above in zip([0, *ends], ends, strict=False)]
    return between(walked.cursor, highs, sizes)
