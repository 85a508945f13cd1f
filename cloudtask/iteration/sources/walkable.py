"""Decides which querysets can be walked along their primary key, exactly.

A page is the queryset with a range of keys added to its WHERE. That is exact if each
row depends on no other row of the queryset. Anything else is rewritten as the rows
whose key is in a subquery, or refused with that way round.
"""

from __future__ import annotations

import re
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from cloudtask.exceptions import UnsupportedValue
from cloudtask.iteration.planner import is_datastore
from cloudtask.iteration.sources import sql_tokens

if TYPE_CHECKING:
    from django.db.models import QuerySet

ROUND = "use Model.objects.filter(pk__in=queryset.values('pk'))"


class _NotWalkable(Exception):
    """The reason against a queryset, as the rest of a sentence."""


def walkable(given: Any, *, of: str | None = None) -> QuerySet[Any]:
    """`given` as a queryset that yields each row once, in no order.

    Raises UnsupportedValue, with the task `of` and the reason, for a queryset that
    can't be walked.
    """
    try:
        return _accepted(given)
    except _NotWalkable as reason:
        subject = f"The queryset of {of}" if of else "The queryset"
        raise UnsupportedValue(f"{subject} {reason}.") from None


def _accepted(given: Any) -> QuerySet[Any]:
    from django.db.models import Manager, QuerySet
    from django.db.models.query import RawQuerySet

    if isinstance(given, Manager):
        given = given.all()
    if isinstance(given, RawQuerySet):
        raise _NotWalkable("is raw SQL, which can't be cut into shards")
    if not isinstance(given, QuerySet):
        raise _NotWalkable(
            f"is {type(given).__name__}; iterate() walks querysets, map() any list"
        )
    reason = _reason_against(given)
    if reason:
        raise _NotWalkable(reason)
    return _each_row_once(_unordered(given))


def _reason_against(queryset: QuerySet[Any]) -> str | None:
    from django.db.models.query import ModelIterable

    query = queryset.query
    if query.combinator:
        return f"is a {query.combinator}(): filter one queryset with Q objects instead"
    if query.is_sliced:
        return "is sliced, which a walk by key can't respect: filter it instead"
    if not issubclass(queryset._iterable_class, ModelIterable):
        return "yields values: leave values(), values_list(), dates() and the like out"
    if query.distinct_fields:
        return (
            "is distinct on fields, so that which rows it has depends on their order: "
            + ROUND
        )
    if query.extra_tables:
        return "has extra(tables=...), which may repeat rows: use a subquery instead"
    if query.select_for_update:
        return "locks rows, which would last no longer than a page"
    if queryset.model._meta.abstract or queryset.model._meta.pk is None:
        return "has a model without a table"
    return None


def _unordered(given: QuerySet[Any]) -> QuerySet[Any]:
    """The queryset without its order, but with the rows that it has in its order.

    A query with aggregates is grouped by what it is ordered by, too. And a join that
    only an order or select_related() uses is an inner one if Django has an unused inner
    join that it can use again.
    """
    from django.db.models.sql.constants import INNER

    unordered = given.order_by()
    query = unordered.query
    query.standard_ordering = True  # reverse() would turn our own order, too
    if is_datastore(given):
        return unordered  # it has no joins
    grouped_by, ordered = _grouped_by(given)
    is_by_many = bool(sql_tokens.names(grouped_by) & _repeating(ordered))
    if is_by_many and grouped_by != _grouped_by(unordered)[0]:
        raise _NotWalkable(
            "is ordered by rows of a relation to many, so that its aggregates are "
            "grouped by them: leave order_by() out"
        )
    is_repeated = bool(_repeating(ordered) - _repeating(query))
    if is_repeated and _entangled(unordered):
        raise _NotWalkable(
            "is ordered by rows of a relation to many, so that its window functions "
            "see rows several times: leave order_by() out"
        )
    for alias, join in ordered.alias_map.items():
        is_inner = join.join_type == INNER and ordered.alias_refcount[alias]
        if is_inner and query.alias_refcount.get(alias) == 0:
            query.ref_alias(alias)
    return unordered


def _each_row_once(queryset: QuerySet[Any]) -> QuerySet[Any]:
    """The queryset itself if a range of keys does not change its rows, else its keys
    in a subquery."""
    query = queryset.query
    _check_having(queryset)
    reason = _entangled(queryset)
    if reason and len(queryset.model._meta.pk_fields) > 1:
        # Django would add the key of each row to the WHERE of such a subquery.
        raise _NotWalkable(
            f"{reason}, and its key has several columns: walk a list of its keys with "
            "map()"
        )
    repeating = _repeating(query)
    if repeating and not _is_grouped_by_row(queryset, repeating):
        return _by_keys(queryset, reason)
    # Without repeating joins there is nothing to make distinct.
    query.distinct = False
    return _by_keys(queryset, reason) if reason else queryset


def _check_having(queryset: QuerySet[Any]) -> None:
    """Refuse a column that a query for keys can't compare with an aggregate."""
    from django.core.exceptions import EmptyResultSet
    from django.db import connections

    is_needed = connections[queryset.db].vendor == "mysql"
    if not is_needed or queryset.query.group_by is None:
        return
    query = queryset.values_list("pk").query
    try:
        sql, _ = query.get_compiler(queryset.db).as_sql()
    except EmptyResultSet:
        return
    key = queryset.model._meta.pk.column
    hidden = sql_tokens.ungrouped(sql, query.alias_map)
    if hidden := {(table, name) for table, name in hidden if name != key}:
        table, name = min(hidden)
        raise _NotWalkable(
            f"compares an aggregate with the column {table}.{name}, which MariaDB and "
            "MySQL allow only if it is selected: compare it with Max() of the column"
        )


def _by_keys(queryset: QuerySet[Any], entangled: str | None) -> QuerySet[Any]:
    """The rows whose keys `queryset` has; refused if its annotations would be lost, or
    if it would mean something else in a subquery."""
    query = queryset.query
    reason = entangled or "joins to many rows and annotates them"
    if query.annotation_select or query.extra_select:
        raise _NotWalkable(
            f"{reason}: {ROUND}, and alias() instead of annotate() in it for values "
            "that are only filtered by"
        )
    outer = queryset.all()
    outer.query = type(query)(queryset.model)
    outer.query.select_related = query.select_related
    outer.query.deferred_loading = query.deferred_loading
    chosen: QuerySet[Any] = outer.filter(pk__in=queryset.values("pk"))
    named = _tables_named(chosen)
    if not entangled:
        named.discard(queryset.model._meta.db_table)  # the row outside is the same one
    if named:
        raise _NotWalkable(
            f"{entangled or 'joins to many rows'}, and raw SQL in it names the table "
            f"{min(named)}, which has another name in a subquery: write the column "
            "alone"
        )
    return chosen


def _tables_named(chosen: QuerySet[Any]) -> set[str]:
    """The tables that SQL in the subquery of `chosen` names before a column. Django's
    own SQL has aliases there. Raw SQL would mean the row outside, or no row."""
    from django.core.exceptions import EmptyResultSet

    inner = chosen.query.where.children[0].rhs  # type: ignore[union-attr]
    try:
        sql, _ = inner.get_compiler(chosen.db).as_sql()
    except EmptyResultSet:
        return set()
    named = {table.lower() for table, _ in sql_tokens.columns(sql_tokens.of(sql))}
    tables = {join.table_name for join in inner.alias_map.values()}
    return {table for table in tables if table.lower() in named}


# Joins that repeat rows


def _repeating(query: Any) -> set[str]:
    """The aliases of joins that may find several rows for one row of the model, and of
    the joins behind them."""
    found: set[str] = set()
    for alias, join in query.alias_map.items():
        field = getattr(join, "join_field", None)
        if field is None or not query.alias_refcount.get(alias):
            continue
        if join.parent_alias in found or _is_multi_valued(field):
            found.add(alias)
    return found


def _is_multi_valued(field: Any) -> bool:
    from django.db.models import ForeignObject, ForeignObjectRel

    if isinstance(field, ForeignObjectRel):
        return not field.one_to_one
    return not isinstance(field, ForeignObject) or not _is_to_one(field)


def _is_to_one(field: Any) -> bool:
    """Whether the columns that a relation points to are a key of their table."""
    targets = field.foreign_related_fields
    key = field.remote_field.model._meta.pk_fields
    return any(one.unique for one in targets) or set(key) <= set(targets)


def _is_grouped_by_row(queryset: QuerySet[Any], repeating: set[str]) -> bool:
    """Whether aggregates make one row of all that a join repeats. They do not if the
    query is grouped by anything that differs between the repeated rows."""
    if queryset.query.group_by is None:
        return False
    return not sql_tokens.names(_grouped_by(queryset)[0]) & repeating


def _grouped_by(queryset: QuerySet[Any]) -> tuple[str, Any]:
    """The grouping of the queryset as SQL, and its query with all of its joins."""
    from django.core.exceptions import EmptyResultSet

    query = queryset.query.clone()
    compiler = query.get_compiler(queryset.db)
    group_by: list[Any] = []
    with suppress(EmptyResultSet):
        _, _, group_by = compiler.pre_sql_setup()
    parts = (
        # A number is the place of a column that is selected.
        compiler.select[int(sql) - 1][1][0] if sql.isdigit() else sql
        for sql, _ in group_by
    )
    return ", ".join(parts), query


# Rows that depend on other rows of the queryset

_SET = re.compile(
    r"UNNEST|GENERATE_(SERIES|SUBSCRIPTS)|JSONB?_(ARRAY_ELEMENTS(_TEXT)?|EACH(_TEXT)?"
    r"|OBJECT_KEYS|PATH_QUERY)|REGEXP_(SPLIT_TO_TABLE|MATCHES)|STRING_TO_TABLE"
)
_RANDOM = re.compile(r"RAND|RANDOM|GEN_RANDOM_UUID|UUID")


def _entangled(queryset: QuerySet[Any]) -> str | None:
    """Why a row of the queryset depends on others, as its SQL tells; None if none does.

    The SQL has what no tree of expressions shows: raw fragments, `extra()`, templates
    of functions, expressions of other libraries.
    """
    from django.core.exceptions import EmptyResultSet

    if is_datastore(queryset):
        return None  # it has no SQL
    clone = queryset.all()
    try:
        sql, _ = clone.query.get_compiler(clone.db).as_sql()
    except EmptyResultSet:
        return None
    outer = sql_tokens.outermost(sql_tokens.of(sql))
    calls = set(sql_tokens.calls(outer))
    if "OVER" in outer:
        return "has a window function, which would see only the rows of a page"
    if any(map(_SET.fullmatch, calls)):
        return "has a function that returns several rows for one"
    if queryset.query.group_by is None and any(
        map(sql_tokens.AGGREGATE.fullmatch, calls)
    ):
        return "has an aggregate over all of its rows"
    if queryset.query.group_by is not None and not _is_grouped_by_key(queryset):
        return "is grouped by other columns than its key"
    where = outer[outer.index("WHERE") :] if "WHERE" in outer else []
    if any(map(_RANDOM.fullmatch, sql_tokens.calls(where))):
        raise _NotWalkable(
            "is filtered by random values, of which each page would have others: "
            "choose the rows first, with filter(pk__in=[...])"
        )
    return None


def _is_grouped_by_key(queryset: QuerySet[Any]) -> bool:
    """Whether each row of the model is a group of its own."""
    group_by = queryset.query.group_by
    if group_by is True:
        return True  # by all columns of the model
    if not isinstance(group_by, tuple | list):
        return False
    names = {getattr(getattr(one, "target", None), "attname", one) for one in group_by}
    return all(field.attname in names for field in queryset.model._meta.pk_fields)
