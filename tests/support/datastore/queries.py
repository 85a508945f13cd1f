"""Queries: a plan over records gives rows in order, and a batch of them an answer."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from tests.support.datastore import protos
from tests.support.datastore.cursors import Place, place_of, write_cursor
from tests.support.datastore.entities import KEY, Record
from tests.support.datastore.errors import unimplemented
from tests.support.datastore.filters import RANGES, comparisons
from tests.support.datastore.limits import Limits
from tests.support.datastore.plans import Order, Plan
from tests.support.datastore.values import rank

Batch = protos.QueryResultBatch
Results = protos.EntityResult.ResultType


@dataclass(frozen=True, slots=True)
class Row:
    record: Record
    values: tuple[protos.Value, ...]  # that the query sorts by
    place: Place


def rows_of(plan: Plan, records: Iterable[Record]) -> list[Row]:
    """All rows between the plan's cursors, in order; offset and limit not applied."""
    rows = [
        _row(plan, record)
        for record in records
        if plan.condition.matches(record) and _is_indexed(plan, record)
    ]
    if plan.start is not None:
        rows = [row for row in rows if plan.start.is_passed_by(row.place)]
    if plan.end is not None:
        rows = [row for row in rows if not plan.end.is_passed_by(row.place)]
    return sorted(rows, key=lambda row: row.place)


def batch_of(plan: Plan, rows: list[Row], limits: Limits) -> protos.QueryResultBatch:
    """One answer: what offset, limit and the service's measure leave of the rows."""
    skipped = min(plan.offset, len(rows), limits.skipped)
    batch = Batch(skipped_results=skipped, entity_result_type=_result_type(plan))
    if skipped:
        batch.skipped_cursor = write_cursor(rows[skipped - 1].values)
    wanted = rows[skipped:]
    if plan.limit is not None:
        wanted = wanted[: plan.limit]
    if skipped == limits.skipped and skipped < plan.offset:
        wanted = []
    _fill(batch, plan, wanted, limits)
    taken = skipped + len(batch.entity_results)
    batch.end_cursor = _end_cursor(plan, rows[:taken])
    batch.more_results = _more_results(plan, batch, rows)
    return batch


def _row(plan: Plan, record: Record) -> Row:
    values = tuple(_sorted_by(plan, order, record) for order in plan.orders)
    return Row(record, values, place_of(values, plan.orders))


def _sorted_by(plan: Plan, order: Order, record: Record) -> protos.Value:
    """Of many values the one that an index scan would meet first."""
    bounds = [
        part
        for part in comparisons(plan.condition)
        if part.name == order.name and part.op in RANGES
    ]
    values = record.indexed(order.name)
    inside = [v for v in values if all(part.holds(rank(v)) for part in bounds)]
    choose = max if order.descending else min
    return choose(inside or values, key=rank)


def _is_indexed(plan: Plan, record: Record) -> bool:
    names = {order.name for order in plan.orders} | set(plan.projection)
    return all(record.indexed(name) for name in names)


def _result_type(plan: Plan) -> int:
    if plan.keys_only:
        return Results.KEY_ONLY
    return Results.PROJECTION if plan.projection else Results.FULL


def _fill(
    batch: protos.QueryResultBatch, plan: Plan, rows: list[Row], limits: Limits
) -> None:
    size = 0
    for row in rows[: limits.batch]:
        result = _result(plan, row)
        size += result.ByteSize()
        if batch.entity_results and size > limits.response:
            return
        batch.entity_results.append(result)


def _result(plan: Plan, row: Row) -> protos.EntityResult:
    result = protos.EntityResult(cursor=write_cursor(row.values))
    record = row.record
    if not plan.projection:
        fill_result(result, record)
        return result
    result.version = record.version
    result.entity.key.CopyFrom(record.entity.key)
    for name in plan.projection:
        if name != KEY:
            values = record.indexed(name)
            if len(values) > 1:
                unimplemented("a projection of a property with many values")
            result.entity.properties[name].CopyFrom(values[0])
    return result


def fill_result(result: protos.EntityResult, record: Record) -> None:
    result.entity.CopyFrom(record.entity)
    result.version = record.version
    result.create_time.FromMicroseconds(record.created)
    result.update_time.FromMicroseconds(record.version)


def _end_cursor(plan: Plan, taken: list[Row]) -> bytes:
    if taken:
        return write_cursor(taken[-1].values)
    return plan.start.text if plan.start else write_cursor(None)


def _more_results(plan: Plan, batch: protos.QueryResultBatch, rows: list[Row]) -> int:
    more = Batch.MoreResultsType
    results = len(batch.entity_results)
    if batch.skipped_results < plan.offset and batch.skipped_results < len(rows):
        return more.NOT_FINISHED
    if plan.limit is not None and results == plan.limit:
        return more.MORE_RESULTS_AFTER_LIMIT
    if batch.skipped_results + results < len(rows):
        return more.NOT_FINISHED
    return more.NO_MORE_RESULTS if plan.end is None else more.MORE_RESULTS_AFTER_CURSOR
