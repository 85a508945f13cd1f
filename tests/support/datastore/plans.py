"""Plans: a query, read and checked."""

from __future__ import annotations

from dataclasses import dataclass

from tests.support.datastore import protos
from tests.support.datastore.cursors import Cursor, read_cursor
from tests.support.datastore.entities import KEY
from tests.support.datastore.errors import invalid, unimplemented
from tests.support.datastore.filters import (
    AllOf,
    Condition,
    Operator,
    ancestor_of,
    comparisons,
    read_filter,
)
from tests.support.datastore.keys import Partition
from tests.support.datastore.limits import Limits

UNEQUAL = (Operator.NOT_EQUAL, Operator.NOT_IN)


@dataclass(frozen=True)
class Order:
    name: str
    descending: bool


@dataclass(frozen=True)
class Plan:
    home: Partition
    kind: str | None
    condition: Condition
    orders: tuple[Order, ...]  # complete: the last is by key
    projection: tuple[str, ...]
    start: Cursor | None
    end: Cursor | None
    offset: int
    limit: int | None

    @property
    def keys_only(self) -> bool:
        return self.projection == (KEY,)


def read_plan(message: protos.Query, home: Partition, limits: Limits) -> Plan:
    """The plan of `message` in partition `home`; refuses what Datastore refuses."""
    _refuse_the_rest(message)
    condition = _read_condition(message, home, limits)
    orders = _read_orders(message, condition)
    plan = Plan(
        home=home,
        kind=message.kind[0].name if message.kind else None,
        condition=condition,
        orders=orders,
        projection=tuple(part.property.name for part in message.projection),
        start=read_cursor(message.start_cursor, orders),
        end=read_cursor(message.end_cursor, orders),
        offset=message.offset,
        limit=message.limit.value if message.HasField("limit") else None,
    )
    _check(plan)
    return plan


def needs_composite_index(plan: Plan) -> bool:
    """Tell whether the plan needs a composite index (index.yaml).

    The built-in ones serve a kind, equalities and an ancestor; and without ancestor
    and equalities, inequalities, orders and projections on a single property.
    """
    equal, ranged = _compared(plan.condition)
    sorted_by = {order.name for order in plan.orders[:-1]} | ranged
    sorted_by |= {name for name in plan.projection if name != KEY}
    if any(order.name == KEY and order.descending for order in plan.orders):
        return True
    if not sorted_by - {KEY}:
        return False
    return bool(len(sorted_by) > 1 or equal - {KEY} or ancestor_of(plan.condition))


def _compared(condition: Condition) -> tuple[set[str], set[str]]:
    """Names in equalities, names in inequalities."""
    equal, ranged = set(), set()
    for comparison in comparisons(condition):
        (equal if comparison.is_equality else ranged).add(comparison.name)
    return equal, ranged


def _refuse_the_rest(message: protos.Query) -> None:
    if len(message.kind) > 1:
        invalid("A query has at most one kind.")
    if message.distinct_on:
        unimplemented("distinct_on")
    if message.HasField("find_nearest"):
        unimplemented("find_nearest")
    if message.offset < 0 or message.limit.value < 0:
        invalid("An offset and a limit must not be negative.")


def _read_condition(
    message: protos.Query, home: Partition, limits: Limits
) -> Condition:
    if not message.HasField("filter"):
        return AllOf()
    return read_filter(message.filter, home, limits)


def _read_orders(message: protos.Query, condition: Condition) -> tuple[Order, ...]:
    descending = protos.PropertyOrder.Direction.DESCENDING
    orders = [
        Order(part.property.name, part.direction == descending)
        for part in message.order
    ]
    _, ranged = _compared(condition)
    if not orders:
        orders = [Order(name, False) for name in sorted(ranged)]
    names = [order.name for order in orders]
    if KEY in names:
        return tuple(orders[: names.index(KEY) + 1])
    return (*orders, Order(KEY, False))


def _check(plan: Plan) -> None:
    equal, ranged = _compared(plan.condition)
    named = equal | ranged | {order.name for order in plan.orders}
    named |= set(plan.projection)
    if plan.kind is None and named - {KEY}:
        invalid("A query without a kind filters and sorts by key and ancestor only.")
    unequal = [c for c in comparisons(plan.condition) if c.op in UNEQUAL]
    if len(unequal) > 1:
        invalid("A query has at most one != or NOT_IN filter.")
    if len(ranged) > 1:
        # Allowed by the service since 2024, with an index of the application's own.
        unimplemented("inequalities on more than one property")
    if ranged and plan.orders[0].name not in ranged:
        invalid(f"The property {min(ranged)!r} has an inequality and must sort first.")
    if KEY in plan.projection and not plan.keys_only:
        unimplemented("a projection of __key__ together with properties")
    if equal & set(plan.projection) - {KEY}:
        invalid("A property in an equality filter cannot be projected.")
