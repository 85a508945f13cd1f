"""Querysets of books made of Django's whole expression library, for hypothesis.

Expressions have a kind, the type of their values, so that most of them can be
evaluated. A quarter of the arguments are of another kind on purpose: databases convert
them, each in its own way.
"""

from __future__ import annotations

import datetime as dt
from decimal import Decimal
from typing import Any

from django.core.exceptions import FieldError, ValidationError
from django.db import NotSupportedError, connection
from django.db import models as m
from django.db.models import F, OuterRef, Q, Value
from django.db.models import functions as f
from django.db.models.expressions import (
    CombinedExpression,
    RawSQL,
    RowRange,
    ValueRange,
)
from django.db.models.fields.json import KT
from hypothesis import strategies as st

from tests.testapp.models import Author, Book

MOMENT = dt.datetime(2024, 2, 29, 12, 30, tzinfo=dt.UTC)
FIELDS: dict[str, m.Field[Any, Any]] = {
    "int": m.IntegerField(),
    "float": m.FloatField(),
    "decimal": m.DecimalField(max_digits=12, decimal_places=4),
    "str": m.CharField(max_length=200),
    "moment": m.DateTimeField(),
    "date": m.DateField(),
    "time": m.TimeField(),
    "bool": m.BooleanField(),
    "json": m.JSONField(),
}
COLUMNS: dict[str, list[Any]] = {
    "int": ["id", "pages", "author__id", "author_id", "labels__id", "novel__pages"],
    "decimal": ["price", "novel__price", "author__books__price"],
    "str": ["title", "author__name", "labels__name", "novel__genre"],
    "moment": ["published", "author__books__published"],
    "json": ["data", "data__a", "data__list__0"],
}
VALUES: dict[str, list[Any]] = {
    "int": [0, 1, 2, 3, -1],
    "float": [0.5, 1.0, 2.5],
    "decimal": [Decimal("1.50"), Decimal(2)],
    "str": ["", "1", "2", "a", "x%", "O'Neil", "count(*) over ()"],
    "moment": [MOMENT, MOMENT - dt.timedelta(days=400)],
    "date": [MOMENT.date()],
    "time": [MOMENT.time()],
    "bool": [True, False],
    "json": [{"a": 1}, 1, "x", [1]],
}
LOOKUPS = ["exact", "gt", "lte", "in", "isnull"]
OF_STRINGS = ["contains", "istartswith", "regex", "iexact"]

# Functions by the kind of their result, with the kinds of their arguments.
FUNCTIONS: dict[str, dict[str, tuple[str, ...]]] = {
    "float": {
        **dict.fromkeys(("ACos", "ASin", "ATan", "Cos", "Sin", "Tan"), ("float",)),
        **dict.fromkeys(("Cot", "Degrees", "Exp", "Ln", "Radians", "Sqrt"), ("int",)),
        **dict.fromkeys(("ATan2", "Log", "Power"), ("float", "int")),
        "Pi": (),
    },
    "int": {
        **dict.fromkeys(("Abs", "Ceil", "Floor", "Round", "Sign"), ("int",)),
        **dict.fromkeys(("Length", "Ord"), ("str",)),
        "Mod": ("int", "int"),
        "StrIndex": ("str", "str"),
        **{
            f"Extract{part}": ("moment",)
            for part in (
                *("Day", "Hour", "IsoWeekDay", "IsoYear", "Minute", "Month"),
                *("Quarter", "Second", "Week", "WeekDay", "Year"),
            )
        },
    },
    "str": {
        **dict.fromkeys(("LTrim", "RTrim", "Trim", "Lower", "Upper"), ("str",)),
        **dict.fromkeys(("MD5", "Reverse", "SHA1", "SHA224"), ("str",)),
        **dict.fromkeys(("SHA256", "SHA384", "SHA512"), ("str",)),
        **dict.fromkeys(("Left", "Right", "Repeat"), ("str", "small")),
        **dict.fromkeys(("LPad", "RPad"), ("str", "small", "text")),
        "Substr": ("str", "small", "small"),
        "Replace": ("str", "text", "text"),
        "Chr": ("letter",),
        "Concat": ("str", "str", "int"),
        "ConcatPair": ("str", "str"),
    },
    "moment": {
        **{
            f"Trunc{part}": ("moment",)
            for part in (
                *("Day", "Hour", "Minute", "Month", "Quarter", "Second"),
                *("Week", "Year"),
            )
        },
        "Now": (),
    },
    "date": {"TruncDate": ("moment",)},
    "time": {"TruncTime": ("moment",)},
    "json": {"JSONArray": ("int", "str")},
}
# Those that take several kinds, or names: `_special` makes them.
SPECIAL = {
    *("Cast", "Coalesce", "Collate", "Extract", "Greatest", "JSONObject", "Least"),
    *("NullIf", "Trunc"),
}
OF_WINDOWS = {
    "CumeDist": (),
    "DenseRank": (),
    "FirstValue": ("int",),
    "Lag": ("int",),
    "LastValue": ("int",),
    "Lead": ("int",),
    "NthValue": ("int", "few"),
    "Ntile": ("few",),
    "PercentRank": (),
    "Rank": (),
    "RowNumber": (),
}
AT_RANDOM = {"Random", "UUID4", "UUID7"}  # two evaluations of these are never the same
# Of other versions of Django than the oldest, with one argument.
LATER = {"BitAnd", "BitOr", "BitXor"}
AGGREGATES = [
    *("Avg", "Count", "Max", "Min", "StdDev", "Sum", "Variance"),
    *sorted(name for name in LATER if hasattr(m, name)),
]
# Which value the first gives is left to the database; the second takes two arguments.
UNUSED = {"AnyValue", "StringAgg"}
COLLATION = {"sqlite": "NOCASE", "postgresql": "C", "mysql": "utf8mb4_bin"}


class Maker:
    """Makes expressions with the choices of hypothesis."""

    def __init__(self, draw: Any, focus: str | None = None) -> None:
        self.draw = draw
        self.focus = focus

    def one_of(self, choices: Any) -> Any:
        return self.draw(st.sampled_from(list(choices)))

    def chance(self, of: int) -> bool:
        return bool(self.draw(st.integers(1, of)) == 1)

    def kind(self) -> str:
        return str(self.one_of([*FIELDS, "int", "int", "str"]))

    def leaf(self, kind: str) -> Any:
        if kind in ("small", "few"):
            return self.draw(st.integers(1, 4))
        if kind == "text":
            return Value(self.one_of(["1", "a", "  "]))
        if kind == "letter":
            return Value(self.draw(st.integers(65, 90)))
        if kind in COLUMNS and not self.chance(4):
            return F(self.one_of(COLUMNS[kind]))
        return Value(self.one_of(VALUES[kind]), output_field=FIELDS[kind])

    def expression(self, kind: str, depth: int = 2) -> Any:
        """An expression whose values are of a kind, usually."""
        if depth == 0 or kind not in FIELDS or self.chance(4):
            return self.leaf(kind)
        how = self.one_of(["function", "function", "special", "other"])
        if how == "function" and kind in FUNCTIONS:
            name = self.one_of(FUNCTIONS[kind])
            taken = FUNCTIONS[kind][name]
            return getattr(f, name)(*(self.argument(one, depth - 1) for one in taken))
        return (
            self.special(kind, depth) if how == "special" else self.other(kind, depth)
        )

    def argument(self, kind: str, depth: int) -> Any:
        """An argument, a quarter of them of a kind that is converted."""
        if kind in FIELDS and self.chance(4):
            kind = self.kind()
        return self.expression(kind, depth)

    def special(self, kind: str, depth: int) -> Any:
        field = {"output_field": FIELDS[kind]}

        def of(kind: str) -> Any:
            return self.argument(kind, depth - 1)

        made = {
            "Cast": lambda: f.Cast(of(self.kind()), FIELDS[kind]),
            "Coalesce": lambda: f.Coalesce(of(kind), of(kind), **field),
            "Greatest": lambda: f.Greatest(of(kind), of(kind), of(kind), **field),
            "Least": lambda: f.Least(of(kind), of(kind), **field),
            "NullIf": lambda: f.NullIf(of(kind), of(kind)),
            "Collate": lambda: f.Collate(of("str"), COLLATION[connection.vendor]),
            "Extract": lambda: f.Extract(of("moment"), self.one_of(["year", "day"])),
            "JSONObject": lambda: f.JSONObject(a=of("int"), b=of("str")),
            "Trunc": lambda: f.Trunc(of("moment"), self.one_of(["year", "day"])),
        }
        assert set(made) == SPECIAL
        return made[self.one_of(made)]()

    def other(self, kind: str, depth: int) -> Any:
        """What is no function: cases, arithmetic, subqueries, raw SQL, wrappers."""
        field = {"output_field": FIELDS[kind]}

        def of(kind: str) -> Any:
            return self.argument(kind, depth - 1)

        made = [
            lambda: m.Case(
                m.When(self.condition(depth - 1), then=of(kind)),
                default=of(kind),
                **field,
            ),
            lambda: CombinedExpression(
                of(kind), self.one_of("+-*/"), of("int"), **field
            ),
            lambda: CombinedExpression(of("int"), self.one_of("%^&|"), of("int")),
            lambda: m.ExpressionWrapper(of(kind), **field),
            lambda: m.Func(of(kind), function="COALESCE", **field),
            lambda: m.Func(of(kind), of(kind), function="NULLIF", **field),
            lambda: KT("data__a"),
            lambda: self.subquery(),
            lambda: m.Exists(self.related()),
            lambda: self.raw(),
        ]
        return self.one_of(made)()

    def related(self) -> Any:
        """Other rows that belong to a row of the queryset."""
        return self.one_of(
            [
                lambda: Book.objects.filter(author=OuterRef("author")),
                lambda: Book.objects.filter(pages__lt=OuterRef("pages")),
                lambda: Book.objects.filter(pk=OuterRef("pk"), labels__name="x"),
                lambda: Author.objects.filter(pk=OuterRef("author_id"), name="b"),
                lambda: Book.objects.exclude(pk=OuterRef("pk")),
            ]
        )()

    def subquery(self) -> Any:
        rows = self.related()
        choices = [
            lambda: m.Subquery(rows.order_by("id").values("id")[:1]),
            lambda: m.Subquery(rows.order_by("-id").values("id")[1:2]),
            lambda: m.Subquery(
                rows.order_by().values("id").annotate(n=m.Count("*")).values("n")[:1]
            ),
            lambda: m.Subquery(
                rows.annotate(n=self.window("few", 0)).order_by("id").values("n")[:1]
            ),
        ]
        return self.one_of(choices)()

    def raw(self) -> Any:
        choices = [
            ("pages + %s", [1]),
            ("testapp_book.pages * 2", []),
            ("'count(*) over ()'", []),
            ("(SELECT count(*) FROM testapp_book)", []),
            ("(SELECT max(b.id) FROM testapp_book b WHERE b.id < testapp_book.id)", []),
            ("CASE WHEN title = %s THEN 1 ELSE 0 END", ["1"]),
            ("count(*) over (partition by pages)", []),
            ("count(*)", []),
            ("1 /* count(*) over () */", []),
        ]
        sql, params = self.one_of(choices)
        return RawSQL(sql, params, output_field=m.IntegerField())

    def window(self, kind: str, depth: int) -> Any:
        name = self.one_of(["Aggregate", *OF_WINDOWS])
        if name == "Aggregate":
            inner: Any = getattr(m, self.one_of(AGGREGATES))("pages")
        else:
            taken = (self.expression(one, depth) for one in OF_WINDOWS[name])
            inner = getattr(f, name)(*taken)
        frame = None
        if name == "Aggregate" and self.chance(2):
            frame = self.one_of([RowRange(-2, 0), RowRange(0, None), ValueRange()])
        return m.Window(
            inner,
            partition_by=self.one_of([None, "pages", "author_id", "title"]),
            # The order of equal rows would be the database's own choice each time.
            order_by=self.one_of(["id", "-id", (F("pages").desc(), "id")]),
            frame=frame,
        )

    def aggregate(self, kind: str, depth: int) -> Any:
        kind_of = getattr(m, self.one_of(_aggregates()))
        what = self.one_of(
            ["labels", "labels__id", "pages", "novel__pages", "author__books__pages"]
        )
        options: dict[str, Any] = {}
        if self.chance(3):
            options["filter"] = self.condition(0)
        if kind_of in (m.Count, m.Sum, m.Avg) and self.chance(3):
            options["distinct"] = True
        return kind_of(what, **options)

    def condition(self, depth: int) -> Q:
        """A condition on one row of the queryset."""
        kind = self.kind()
        if kind not in COLUMNS:
            kind = "int"
        column = self.one_of(COLUMNS[kind])
        q = Q(**{f"{column}__{self.lookup(kind)}": None})
        name = q.children[0][0]  # type: ignore[index]
        q = Q(**{name: self.compared(name, kind)})
        if self.chance(4):
            q = ~q
        if depth and self.chance(3):
            second = self.condition(depth - 1)
            q = self.one_of(
                [lambda: q | second, lambda: q ^ second, lambda: q & second]
            )()
        if self.chance(6):
            q &= self.one_of(
                [
                    lambda: Q(m.Exists(self.related())),
                    lambda: ~Q(m.Exists(self.related())),
                    lambda: Q(
                        pk__in=Book.objects.order_by("-pages", "id")[:5].values("pk")
                    ),
                    lambda: Q(
                        pk__in=Book.objects.alias(w=self.window("int", 0))
                        .filter(w__lte=3)
                        .values("pk")
                    ),
                    lambda: Q(author__in=Author.objects.filter(name="a")),
                ]
            )()
        return q

    def lookup(self, kind: str) -> str:
        return str(self.one_of(LOOKUPS + (OF_STRINGS if kind == "str" else [])))

    def compared(self, name: str, kind: str) -> Any:
        lookup = name.rpartition("__")[2]
        if lookup == "isnull":
            return self.chance(2)
        values = VALUES[kind if kind in VALUES else "int"]
        if lookup == "in":
            return [self.one_of(values), self.one_of(values)]
        if lookup in OF_STRINGS:
            return self.one_of(["1", "a", "x"])
        if self.chance(4):
            return self.expression(kind, 1)
        return self.one_of(values)

    def queryset(self) -> Any:
        """A queryset of books: annotations or aliases, filters by them, and the rest of
        a queryset's methods."""
        books = Book.objects.all()
        for number in range(self.draw(st.integers(0, 3))):
            books = self.with_value(books, f"v{number}")
        for _ in range(self.draw(st.integers(0, 2))):
            books = self.one_of([books.filter, books.exclude])(self.condition(1))
        return self.finished(books)

    def with_value(self, books: Any, name: str) -> Any:
        kind = self.kind()
        how = self.one_of(["row", "row", "row", "window", "aggregate", "relation"])
        if self.focus and self.chance(2):
            how = self.focus
        if how == "relation":
            path = self.one_of(["labels", "novel", "author"])
            books = books.alias(
                **{name: m.FilteredRelation(path, condition=self.within(path))}
            )
            return books.filter(**{f"{name}__isnull": self.chance(2)})
        makers = {"row": self.expression, "window": self.window}
        made = makers.get(how, self.aggregate)(kind, 2)
        books = self.one_of([books.annotate, books.alias])(**{name: made})
        if how == "window" or self.chance(2):
            lookup = f"{name}__{self.lookup(kind)}"
            books = books.filter(**{lookup: self.compared(lookup, kind)})
        return books

    def within(self, path: str) -> Q:
        name, values = {
            "labels": ("labels__name", "xy"),
            "novel": ("novel__pages__gt", [1, 2]),
            "author": ("author__name", "ab"),
        }[path]
        return Q(**{name: self.one_of(values)})

    def finished(self, books: Any) -> Any:
        made = {
            "distinct": lambda: books.distinct(),
            "order": lambda: books.order_by("-pages", "author__name", "labels__name"),
            "window": lambda: books.order_by(self.window("int", 0)),
            "random": lambda: books.order_by("?"),
            "related": lambda: books.select_related("author").prefetch_related(
                "labels"
            ),
            "only": lambda: books.only("title"),
            "defer": lambda: books.defer("pages", "data"),
            "reverse": lambda: books.order_by("title").reverse(),
            "extra where": lambda: books.extra(
                where=[self.one_of(["testapp_book.pages > %s", "title <> %s"])],
                params=["1"],
            ),
            "extra select": lambda: books.extra(
                select={"e": self.one_of(["pages + 1", "rank() over (order by pages)"])}
            ),
            "extra order": lambda: books.extra(order_by=["-pages"]),
            "values": lambda: books.values("pages"),
            "dates": lambda: books.dates("published", "day"),
            "slice": lambda: books.order_by("pages")[2:9],
            "union": lambda: books.union(Book.objects.filter(pages=1)),
            "distinct on": lambda: books.order_by("pages").distinct("pages"),
            "lock": lambda: books.select_for_update(),
            "none": lambda: books.none(),
        }
        return books if self.chance(3) else self.one_of(made.values())()


class Made:
    """A queryset, shown as its SQL: Django would evaluate it to show it."""

    def __init__(self, queryset: Any) -> None:
        self.queryset = queryset

    def __repr__(self) -> str:
        try:
            return str(self.queryset.query)
        except Exception as error:  # noqa: BLE001
            return f"no SQL: {error}"


def _aggregates() -> list[str]:
    """MariaDB finds STDDEV_POP(x) IS NULL for other rows in HAVING if the same query
    is ordered in another way."""
    if connection.vendor != "mysql":
        return AGGREGATES
    return [name for name in AGGREGATES if name not in ("StdDev", "Variance")]


@st.composite
def querysets(draw: Any, focus: str | None = None) -> Made | None:
    """A queryset, with many values of the kind `focus`; None if Django refuses to make
    it."""
    try:
        return Made(Maker(draw, focus).queryset())
    except (FieldError, NotSupportedError, ValidationError, TypeError, ValueError):
        return None  # types that do not fit, as Django says
    except RuntimeWarning:
        return None  # a date where Django wants a moment with its zone
