"""Which querysets can be walked along their primary key."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from cloudtask.exceptions import UnsupportedValue

if TYPE_CHECKING:
    from django.db.models import QuerySet


def walkable(given: Any) -> QuerySet[Any]:
    """`given` as a queryset that yields each row once, in no order.

    Raises UnsupportedValue, with the reason, for what can't be walked in shards.
    """
    from django.db.models import Manager, QuerySet
    from django.db.models.query import RawQuerySet

    if isinstance(given, Manager):
        given = given.all()
    if isinstance(given, RawQuerySet):
        raise _refusal("is raw SQL, which can't be cut into shards")
    if not isinstance(given, QuerySet):
        raise _refusal(
            f"is {type(given).__name__}; iterate() walks querysets, map() any list"
        )
    reason = _reason_against(given)
    if reason:
        raise _refusal(reason)
    unordered = given.order_by()
    unordered.query.standard_ordering = True  # reverse() would turn our own order, too
    return _each_row_once(unordered)


def _refusal(reason: str) -> UnsupportedValue:
    return UnsupportedValue(f"The queryset {reason}.")


def _reason_against(queryset: QuerySet[Any]) -> str | None:
    from django.db.models.query import ModelIterable

    query = queryset.query
    if query.combinator:
        return f"is a {query.combinator}(): filter one queryset with Q objects instead"
    if query.is_sliced:
        return "is sliced, which a walk by key can't respect: filter it instead"
    if not issubclass(queryset._iterable_class, ModelIterable):
        return "yields values: leave values(), values_list(), dates() and the like out"
    if query.distinct and (query.distinct_fields or _joins(queryset)):
        return (
            "is distinct over joins: use filter(pk__in=...) with the joined queryset "
            "inside"
        )
    if query.extra_tables:
        return "has extra(tables=...), which may repeat rows: use a subquery instead"
    if query.select_for_update:
        return "locks rows, which would last no longer than a page"
    if queryset.model._meta.abstract or queryset.model._meta.pk is None:
        return "has a model without a table"
    return None


def _joins(queryset: QuerySet[Any]) -> dict[str, Any]:
    """The joins of the query to other tables, by alias, but those to parents of the
    model."""
    query = queryset.query
    used: dict[str, Any] = {
        alias: join
        for alias, join in query.alias_map.items()
        if query.alias_refcount.get(alias)
    }
    return {
        alias: join
        for alias, join in used.items()
        if getattr(join, "join_field", None) and not _is_to_parent(join.join_field)
    }


def _is_to_parent(field: Any) -> bool:
    return bool(getattr(getattr(field, "remote_field", None), "parent_link", False))


def _repeating(queryset: QuerySet[Any]) -> set[str]:
    """The aliases of joins across which one row of the model may meet several, and of
    those behind them."""
    found: set[str] = set()
    for alias, join in _joins(queryset).items():
        if join.parent_alias in found or _is_multi_valued(join.join_field):
            found.add(alias)
    return found


def _is_multi_valued(field: Any) -> bool:
    from django.db.models import ForeignObjectRel

    return isinstance(field, ForeignObjectRel) and not field.one_to_one


def _is_grouped_by_row(queryset: QuerySet[Any], repeating: set[str]) -> bool:
    """Whether aggregates make one row of all that a join repeats: not if one of the
    annotations beside them differs between those."""
    query = queryset.query
    if query.group_by is None:
        return False
    beside = [one for one in query.annotations.values() if not one.contains_aggregate]
    _, having, _ = query.where.split_having_qualify(must_group_by=True)
    columns = _grouped_by([*beside, having] if having else beside)
    return not any(getattr(column, "alias", None) in repeating for column in columns)


def _grouped_by(expressions: Sequence[Any]) -> Iterator[Any]:
    """The columns by which a query is grouped for `expressions`; of a subquery those of
    the outer query."""
    for expression in expressions:
        for part in expression.get_group_by_cols():
            outer = getattr(part, "get_external_cols", None)
            yield from outer() if outer else [part]


def _each_row_once(queryset: QuerySet[Any]) -> QuerySet[Any]:
    """Joins that repeat rows are moved into a subquery of keys."""
    query = queryset.query
    repeating = _repeating(queryset)
    if not repeating or _is_grouped_by_row(queryset, repeating):
        return queryset
    if query.annotations or query.extra:
        raise _refusal(
            "joins to many rows and annotates them: use filter(pk__in=...) with the "
            "joined queryset inside"
        )
    outer = queryset.all()
    outer.query = type(query)(queryset.model)
    outer.query.select_related = query.select_related
    outer.query.deferred_loading = query.deferred_loading
    chosen: QuerySet[Any] = outer.filter(pk__in=queryset.values("pk"))
    return chosen
