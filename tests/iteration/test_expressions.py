"""Any queryset that is accepted is walked exactly: querysets made of Django's whole
expression library, for any number of shards and any size of pages."""

from __future__ import annotations

import pytest
from django.core.exceptions import FieldError
from django.db import DatabaseError, connection, transaction
from django.db.models import (
    Avg,
    BooleanField,
    Case,
    Count,
    Exists,
    ExpressionWrapper,
    F,
    IntegerField,
    Max,
    Min,
    OuterRef,
    Q,
    StdDev,
    Subquery,
    Sum,
    Value,
    Variance,
    When,
    Window,
)
from django.db.models import functions as f
from django.db.models.expressions import RawSQL, RowRange
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cloudtask.codec import dumps, loads
from cloudtask.exceptions import UnsupportedValue
from cloudtask.iteration.pages import Reader, Unreadable
from cloudtask.iteration.querysets import walkable
from cloudtask.iteration.sources import QuerySetSource
from tests.testapp.models import Author, Book

# Whole numbers of one row of Book.
NUMBERS = [
    F("pages"),
    F("author__id"),
    f.Abs("pages"),
    f.Mod("pages", Value(3)),
    f.Length("title"),
    f.Sign("pages"),
    f.Greatest("pages", Value(2)),
    f.Least("pages", Value(2)),
    f.Coalesce("author_id", Value(0)),
    f.NullIf("pages", Value(2)),
    f.StrIndex("title", Value("1")),
    f.Ord("title"),
    f.Cast("title", IntegerField()),
    f.ExtractMonth("published"),
    f.ExtractWeekDay("published"),
    F("pages") * 2 + 1,
    Case(When(pages__gt=2, then=Value(1)), default=Value(0)),
    Case(When(Q(title="1") | Q(author__name="a"), then=F("pages")), default=Value(7)),
    Subquery(
        Book.objects.filter(author=OuterRef("author")).order_by("id").values("id")[:1]
    ),
    Subquery(
        Book.objects.filter(pages=OuterRef("pages"))
        .values("pages")
        .annotate(n=Count("*"))
        .values("n")
    ),
    RawSQL("pages + 1", []),
]
# Numbers of a row that depend on other rows.
WINDOWS = [
    Window(f.RowNumber(), partition_by="pages", order_by="-id"),
    Window(f.Rank(), order_by="pages"),
    Window(f.DenseRank(), order_by="pages"),
    Window(f.Lag("pages"), order_by="id"),
    Window(f.Lead("pages"), order_by="id"),
    Window(f.FirstValue("id"), partition_by="author_id", order_by="id"),
    Window(f.Ntile(3), order_by="id"),
    Window(Sum("pages"), order_by="id", frame=RowRange(start=-2, end=0)),
    Window(Count("*"), partition_by="author_id"),
]
AGGREGATES = [
    Count("labels"),
    Count("labels", distinct=True),
    Count("labels", filter=Q(labels__name="x")),
    Max("labels__id"),
    Min("labels__id"),
    Sum("labels__id"),
    Avg("labels__id"),
    StdDev("labels__id"),
    Variance("labels__id"),
]
CONDITIONS = [
    Q(pages__gt=1),
    ~Q(pages=2),
    Q(author__name="a"),
    Q(labels__name="x"),
    ~Q(labels__name="x"),
    Q(labels__id__gt=0) | Q(pages=1),
    Q(Exists(Author.objects.filter(pk=OuterRef("author_id"), name="b"))),
    Q(pk__in=Book.objects.order_by("-pages")[:5].values("pk")),
    Q(pages__in=Book.objects.values("pages").annotate(n=Count("*")).values("n")),
    Q(title__contains="1"),
    Q(published__isnull=True),
    Q(ExpressionWrapper(Q(pages__lt=3), output_field=BooleanField())),
]


class Made:
    """A queryset, shown as its SQL: Django would evaluate it to show it."""

    def __init__(self, queryset):
        self.queryset = queryset

    def __repr__(self):
        try:
            return str(self.queryset.query)
        except Exception as error:  # noqa: BLE001
            return f"no SQL: {error}"


@st.composite
def querysets(draw):
    """A queryset of books: annotations or aliases, and filters by them."""
    return Made(_made(draw))


def _made(draw):
    books = Book.objects.all()
    for number in range(draw(st.integers(0, 3))):
        kinds = st.sampled_from([NUMBERS, NUMBERS, WINDOWS, AGGREGATES])
        expression = draw(st.sampled_from(draw(kinds)))
        name = f"v{number}"
        add = draw(st.sampled_from([books.annotate, books.alias]))
        books = add(**{name: expression})
        if draw(st.booleans()):
            lookup = draw(st.sampled_from(["gt", "lt", "exact", "isnull"]))
            value = draw(st.booleans() if lookup == "isnull" else st.integers(0, 4))
            books = books.filter(**{f"{name}__{lookup}": value})
    for _ in range(draw(st.integers(0, 2))):
        books = books.filter(draw(st.sampled_from(CONDITIONS)))
    how = draw(st.sampled_from(["", "", "distinct", "order", "related", "only"]))
    if how == "distinct":
        return books.distinct()
    if how == "order":
        return books.order_by("-pages", draw(st.sampled_from(WINDOWS)))
    if how == "related":
        return books.select_related("author").prefetch_related("labels")
    return books.only("title") if how == "only" else books


@pytest.fixture
def books(db):
    authors = [Author.objects.create(name=name) for name in "ab"]
    from tests.testapp.models import Label

    labels = [Label.objects.create(name=name) for name in "xyz"]
    for number in range(24):
        book = Book.objects.create(
            title=str(number % 5),
            author=[*authors, None][number % 3],
            pages=number % 4,
        )
        book.labels.set(labels[: number % 4])


def called(queryset, shards, size):
    """The keys that a run of so many shards and rows a page would call."""
    source = QuerySetSource(loads(dumps(queryset)))
    for piece in source.plan(shards, include_new=False).pieces:
        reader = Reader(source, clock=lambda: 0.0)
        bounds = piece.bounds
        while True:
            reader.near = size
            page = reader.read(bounds)
            assert page is not None
            assert not isinstance(page, Unreadable)
            yield from page.keys
            if page.is_last:
                break
            bounds = type(bounds)(page.end, bounds.high)


@pytest.mark.usefixtures("books")
@settings(
    max_examples=400,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(querysets(), st.integers(1, 7), st.sampled_from([1, 2, 3, 5, 100]))
def test_the_rows_called_are_those_of_the_queryset(made, shards, size):
    queryset = made.queryset
    try:
        with transaction.atomic():
            expected = {row.pk for row in queryset}
    except (DatabaseError, FieldError, IndexError):
        return  # it can not be evaluated, whether it is walked or not
    try:
        accepted = walkable(queryset)
    except UnsupportedValue:
        return

    seen = list(called(accepted, shards, size))

    assert len(seen) == len(set(seen)), "a row was called twice"
    assert set(seen) == expected


def test_most_of_them_are_accepted(books):
    """Querysets that are refused would make the property above hold of nothing."""
    plain = [Book.objects.annotate(v=one) for one in NUMBERS]
    plain += [Book.objects.annotate(v=one).filter(v__gt=0) for one in AGGREGATES]
    plain += [Book.objects.alias(v=one).filter(v__gt=1) for one in WINDOWS]
    plain += [Book.objects.filter(one) for one in CONDITIONS]

    assert all(walkable(one) is not None for one in plain), connection.vendor
