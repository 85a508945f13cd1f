"""A queryset is walked exactly, or refused with the way round it."""

from __future__ import annotations

from typing import ClassVar

import pytest
from django.db import connection
from django.db.models import (
    Case,
    Count,
    F,
    Func,
    IntegerField,
    Max,
    OuterRef,
    Q,
    Subquery,
    Value,
    When,
    Window,
)
from django.db.models.expressions import RawSQL
from django.db.models.functions import Greatest, Length, Random, RowNumber
from django.db.models.query import ModelIterable, QuerySet

from cloudtask.exceptions import UnsupportedValue
from cloudtask.iteration import RunState
from cloudtask.iteration.sources.walkable import walkable
from cloudtask.testing import run_queued
from tests.iteration import tasks
from tests.iteration.models import Seat, Thing
from tests.iteration.tasks import trace
from tests.testapp.models import Author, Book, Novel

pytestmark = pytest.mark.django_db
ROWS = 60
LATEST = Window(RowNumber(), partition_by="size", order_by="-id")


@pytest.fixture
def things() -> None:
    Thing.objects.bulk_create(Thing(id=n, size=n % 7) for n in range(1, ROWS + 1))


def walked(queryset, **policy):
    """The keys for which the callback was called, in three shards of small pages."""
    trace.clear()
    run = tasks.visit_only.iterate(queryset, shards=3, keep=True, **policy)
    run_queued()
    assert run.state is RunState.FINISHED, run.error
    assert run.report().done == len(trace.rows)
    return sorted(trace.rows)


def test_a_window_that_rows_are_only_filtered_by_sees_all_rows(things):
    latest = Thing.objects.alias(place=LATEST).filter(place=1)

    assert walked(latest) == sorted(latest.values_list("pk", flat=True))


ENTANGLED = {
    "a window": lambda: Thing.objects.annotate(place=LATEST).filter(place=1),
    "a window that is only shown": lambda: Thing.objects.annotate(place=LATEST),
    "raw SQL of a window": lambda: Thing.objects.annotate(
        place=RawSQL("row_number() OVER (ORDER BY id)", [])
    ),
    "an extra column": lambda: Thing.objects.extra(
        select={"place": "rank() over (order by size)"}
    ),
    "a template": lambda: Thing.objects.annotate(
        place=Func(
            F("size"),
            template="SUM(%(expressions)s) OVER ()",
            output_field=IntegerField(),
        )
    ),
    "raw SQL of an aggregate": lambda: Thing.objects.annotate(
        all=RawSQL("count(*)", [])
    ),
}


@pytest.mark.parametrize("name", ENTANGLED)
def test_rows_that_depend_on_others_are_refused_with_the_way_round(name):
    with pytest.raises(UnsupportedValue, match=r"filter\(pk__in=queryset.values"):
        tasks.visit_only.iterate(ENTANGLED[name]())


def test_a_window_over_rows_that_the_order_repeats_is_refused():
    rows = Window(Count("*"), partition_by="author")
    few = Book.objects.alias(n=rows).filter(n__lt=3)

    assert walkable(few.order_by("author__name")) is not None
    with pytest.raises(UnsupportedValue, match=r"leave order_by\(\) out"):
        walkable(few.order_by("labels__name"))


def of_raw_sql(column):
    """The latest of each size, of rows that raw SQL chooses."""
    chosen = Thing.objects.extra(where=[f"{column} < %s"], params=[50])
    return chosen.alias(place=LATEST).filter(place=1)


def test_raw_sql_that_names_its_table_is_refused_in_a_subquery():
    """There the name would be that of the row outside."""
    with pytest.raises(UnsupportedValue, match="write the column alone"):
        tasks.visit_only.iterate(of_raw_sql(f"{Thing._meta.db_table}.id"))


def test_raw_sql_of_a_column_alone_is_walked_in_a_subquery(things):
    queryset = of_raw_sql("id")

    assert walked(queryset) == sorted(queryset.values_list("pk", flat=True)) != []


def test_raw_sql_may_name_the_table_beside_a_join(things):
    """The row outside of the subquery is then the same one."""
    authors = [Author.objects.create(name=name) for name in "ab"]
    for author in authors:
        Book.objects.create(author=author, title="x")
        Book.objects.create(author=author, title="x")
    named = Author.objects.filter(books__title="x").extra(
        where=[f"{Author._meta.db_table}.name = 'a'"]
    )
    assert [row.pk for row in walkable(named)] == [authors[0].pk]

    of_books = Author.objects.filter(books__title="x").extra(
        where=[f"{Book._meta.db_table}.title = 'x'"]
    )
    with pytest.raises(UnsupportedValue, match=Book._meta.db_table):
        walkable(of_books)


@pytest.mark.parametrize("column", ["pages", "author__name"])
def test_an_aggregate_beside_a_column_is_walked_or_refused(column):
    """MariaDB and MySQL see no column in HAVING that is not selected."""
    counted = Book.objects.alias(n=Count("labels")).filter(n__gte=Length(column))
    if connection.vendor != "mysql":
        assert walkable(counted) is not None
        return
    with pytest.raises(UnsupportedValue, match=r"compare it with Max\(\)"):
        walkable(counted)


def test_an_aggregate_beside_the_largest_of_a_column_is_walked_everywhere():
    long, short = (Book.objects.create(title="x", pages=n) for n in (100, 0))
    counted = Book.objects.alias(n=Count("labels"), most=Max("pages"))

    assert walked(counted.filter(n__gte=F("most"))) == [short.pk]
    assert walked(counted.filter(n__lt=F("most"))) == [long.pk]


@pytest.mark.parametrize("add", ["annotate", "alias"])
def test_rows_at_random_are_refused(add):
    """Each page would choose others, in a subquery, too."""
    chosen = getattr(Thing.objects, add)(r=Random()).filter(r__lt=0.5)

    with pytest.raises(UnsupportedValue, match=r"filter\(pk__in=\[...\]\)"):
        tasks.visit_only.iterate(chosen)


def test_windows_over_keys_of_several_columns_are_refused():
    """Django's subquery for them would see only the row that it is asked of."""
    first = Window(RowNumber(), partition_by="row", order_by="number")

    with pytest.raises(UnsupportedValue, match=r"with map\(\)"):
        tasks.visit_only.iterate(Seat.objects.alias(place=first).filter(place=1))


@pytest.mark.parametrize("name", ["a window", "a window that is only shown"])
def test_the_way_round_walks_the_rows_of_the_queryset(things, name):
    queryset = ENTANGLED[name]()
    expected = sorted(row.pk for row in queryset)

    assert walked(Thing.objects.filter(pk__in=queryset.values("pk"))) == expected


WALKED = {
    "a window in a subquery": lambda: Thing.objects.filter(
        pk__in=Thing.objects.alias(place=LATEST).filter(place=1).values("pk")
    ),
    "a window in an annotated subquery": lambda: Thing.objects.annotate(
        first=Subquery(
            Thing.objects.filter(size=OuterRef("size"))
            .annotate(place=LATEST)
            .values("place")[:1]
        )
    ),
    "the greatest of columns": lambda: Thing.objects.filter(
        Q(size__lt=Greatest("size", "id"))
    ),
    "raw SQL of one row": lambda: Thing.objects.annotate(twice=RawSQL("size * 2", [])),
    "a text about windows": lambda: Thing.objects.annotate(
        said=RawSQL("'count(*) over ()'", [])
    ),
    "a random value beside": lambda: Thing.objects.annotate(r=Random()),
    "distinct rows": lambda: Thing.objects.filter(size__gt=1).distinct(),
    "ordered by a window": lambda: Thing.objects.order_by(LATEST),
}


@pytest.mark.parametrize("name", WALKED)
def test_rows_that_depend_on_themselves_are_walked(things, name):
    queryset = WALKED[name]()

    assert walked(queryset) == sorted(row.pk for row in queryset)


def test_distinct_rows_over_joins_are_walked():
    for name in "ab":
        author = Author.objects.create(name=name)
        for pages in (1, 1, 2):
            Book.objects.create(title="t", author=author, pages=pages)
    to_many = Author.objects.filter(books__pages__lt=3).distinct()
    to_one = Book.objects.filter(author__name="a").distinct()
    counted = Author.objects.annotate(n=Count("books")).filter(n=3).distinct()

    for queryset in (to_many, to_one, counted):
        assert walked(queryset) == sorted(row.pk for row in queryset)


GROUPED = {
    "a column of the joined rows": lambda: F("books__pages"),
    "what is computed of it": lambda: F("books__pages") + 1,
    "a case of it": lambda: Case(
        When(books__pages__gt=1, then=Value(1)), default=Value(0)
    ),
    "a row behind a child of it": lambda: F("books__novel__genre"),
}


@pytest.fixture
def authors() -> None:
    for name in "ab":
        author = Author.objects.create(name=name)
        Book.objects.create(title="t", author=author, pages=1)
        Novel.objects.create(title="t", author=author, pages=2)


@pytest.mark.parametrize("name", GROUPED)
def test_an_aggregate_beside_values_of_repeated_rows_is_refused(authors, name):
    by_rows = Author.objects.annotate(n=Count("books"), beside=GROUPED[name]())

    assert len(by_rows) > 2, "the join repeats no row"
    with pytest.raises(UnsupportedValue, match=r"filter\(pk__in=queryset.values"):
        tasks.visit_only.iterate(by_rows)


def test_an_aggregate_that_is_compared_with_repeated_rows_calls_each_row_once(authors):
    if connection.vendor == "mysql":
        pytest.skip("a query of keys there compares no column that it does not select")
    counted = Author.objects.alias(n=Count("books"))
    by_rows = counted.filter(n__lt=F("books__pages") + 9)

    assert len(by_rows) > 2, "the join repeats no row"
    assert walked(by_rows) == sorted({row.pk for row in by_rows})


def test_an_order_that_groups_aggregates_is_refused():
    counted = Author.objects.annotate(n=Count("books")).filter(n=1)

    tasks.visit_only.iterate(counted.order_by("name"))
    with pytest.raises(UnsupportedValue, match=r"leave order_by\(\) out"):
        tasks.visit_only.iterate(counted.order_by("books__title"))


@pytest.mark.parametrize("use", ["order_by", "select_related"])
def test_a_join_that_only_an_order_or_related_rows_use_leaves_out_the_same_rows(use):
    """Django reuses the inner join of a filter that does not need it any more."""
    author = Author.objects.create(name="a")
    books = [Book.objects.create(title="t", author=one) for one in (author, None)]
    either = Book.objects.exclude(~Q(author=0) ^ Q(pk=0))
    queryset = {
        "order_by": either.order_by("author__name"),
        "select_related": either.select_related("author"),
    }[use]

    assert len(books) > len(list(queryset))
    assert walked(queryset) == sorted(row.pk for row in queryset)


class LeavesOut(ModelIterable):
    """As an iterable of polymorphic models does with rows whose derived row is gone."""

    def __iter__(self):
        return (row for row in super().__iter__() if row.pk not in LeavesOutSet.gone)


class LeavesOutSet(QuerySet):
    gone: ClassVar[set[int]] = set()

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self._iterable_class = LeavesOut


@pytest.mark.parametrize("atomic", [None, "page", "row"])
@pytest.mark.parametrize(
    "gone", [{3}, {1, ROWS}, set(range(5, 50)), set(range(1, ROWS + 1))]
)
def test_rows_that_an_iterable_leaves_out_end_no_shard(
    things, atomic, gone, monkeypatch
):
    monkeypatch.setattr(LeavesOutSet, "gone", gone)
    monkeypatch.setattr("cloudtask.iteration.sources.pages.PAGE_FIRST", 4)
    rows = LeavesOutSet(Thing)

    assert walked(rows.all(), atomic=atomic) == [row.pk for row in rows.order_by("pk")]


class TestRowsThatAreGone:
    """A callback deletes the next row, or takes it out of the filter."""

    HOOKS: ClassVar = {
        "deleted": lambda row: Thing.objects.filter(pk=row.pk + 1).delete(),
        "changed": lambda row: Thing.objects.filter(pk=row.pk + 1).update(size=99),
    }

    @pytest.mark.parametrize("hook", HOOKS)
    def test_by_row_they_are_not_called(self, things, hook):
        for key in range(1, ROWS + 1):
            trace.acts[key] = self.HOOKS[hook]
        run = tasks.act.iterate(
            Thing.objects.filter(size__lt=99), atomic="row", shards=1, keep=True
        )
        run_queued()

        assert trace.rows == list(range(1, ROWS + 1, 2))
        assert (run.report().done, run.report().failed) == (ROWS // 2, 0)

    def test_by_row_the_row_is_as_it_is_at_its_turn(self, things):
        seen = []
        trace.acts[1] = lambda row: Thing.objects.filter(pk=2).update(size=55)
        trace.acts[2] = lambda row: seen.append(row.size)
        tasks.act.iterate(Thing.objects.all(), atomic="row", shards=1)
        run_queued()

        assert seen == [55]


@pytest.mark.parametrize("items", ["abc", b"abc", bytearray(b"abc"), {"a": 1}])
def test_a_text_or_a_mapping_is_no_list_of_items(items):
    with pytest.raises(TypeError, match="takes a list of items"):
        tasks.visit_item.map(items)


def test_a_function_that_returns_several_rows_is_refused():
    if connection.vendor != "postgresql":
        pytest.skip("only PostgreSQL has such functions beside columns")
    many = Thing.objects.annotate(n=RawSQL("generate_series(1, 3)", []))
    with pytest.raises(UnsupportedValue, match="several rows for one"):
        tasks.visit_only.iterate(many)
