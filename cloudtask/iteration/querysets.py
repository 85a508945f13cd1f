"""Which querysets can be walked along their primary key."""

from __future__ import annotations

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
    return _each_row_once(given.order_by())


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
    if query.select_for_update:
        return "locks rows, which would last no longer than a page"
    if queryset.model._meta.abstract or queryset.model._meta.pk is None:
        return "has a model without a table"
    return None


def _joins(queryset: QuerySet[Any]) -> list[Any]:
    """The joins of the query to other tables, but those to parents of the model."""
    parents = {parent._meta.db_table for parent in queryset.model._meta.all_parents}
    return [
        join
        for alias, join in queryset.query.alias_map.items()
        if queryset.query.alias_refcount.get(alias)
        and getattr(join, "join_field", None) is not None
        and join.table_name not in parents
    ]


def _is_multi_valued(join: Any) -> bool:
    """Whether one row of the model may meet several rows across `join`."""
    from django.db.models import ForeignObjectRel

    field = join.join_field
    return isinstance(field, ForeignObjectRel) and not field.one_to_one


def _each_row_once(queryset: QuerySet[Any]) -> QuerySet[Any]:
    """Joins that repeat rows are moved into a subquery of keys."""
    query = queryset.query
    if query.group_by is not None or not any(map(_is_multi_valued, _joins(queryset))):
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
