"""A payload can't reach an attribute, call anything, import anything, or change a type.

The signature keeps strangers from writing payloads; these are what one could write.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from django.db.models import F, Func, Prefetch, Q, Value
from django.db.models.functions import Lower
from django.test import override_settings
from django.utils.functional import Promise
from django.utils.text import format_lazy
from django.utils.translation import gettext_lazy

from cloudtask.codec import dumps, loads, packing, tags
from cloudtask.exceptions import PayloadError, UnsupportedValue
from tests.codec import traps
from tests.codec.traps import Described, Loud, Order, Paper
from tests.testapp.models import Author, Book

HERE = "tests.codec.traps"
QUERY = "django.db.models.sql.query:Query"
VERSION = json.loads(dumps(Book.objects.all()))["$"][1]["query"][0]
# A module of an installed app, and one of Python, that no test imports.
UNLOADED = ("django.contrib.auth.management.commands.createsuperuser", "wave")


@pytest.fixture(autouse=True)
def _traps_are_trusted() -> Iterator[None]:
    traps.touched.clear()
    with override_settings(CLOUDTASK={"TRUSTED_MODULES": [HERE]}):
        yield


def wire(tag: str, content: Any) -> Any:
    return {"$": [tag, content]}


def decoded(value: Any) -> Any:
    return loads(json.dumps(value).encode())


def in_graph(path: str, state: Any) -> Any:
    graph = json.dumps(wire(tags.NODE, [0, path, state]))
    return decoded(wire(tags.GRAPH, [VERSION, graph]))


# Whatever stands inside a tag.

TRAP = wire(tags.DATACLASS, [f"{HERE}:Trap", {"name": "x"}])
FUNCTION = wire(tags.FUNCTION, f"{HERE}:call_me")
QUERYSET = json.loads(dumps(Book.objects.all()))
LAZY = wire(tags.LAZY, ["gettext", ["Yes"], {}])
HOSTILE = {
    "a trap": TRAP,
    "a function": FUNCTION,
    "a class": wire(tags.CLASS, f"{HERE}:Trap"),
    "a queryset": QUERYSET,
    "a model": wire(tags.MODEL, "testapp.Book"),
    "an instance": json.loads(dumps(Book(title="x"))),
    "a lazy string": LAZY,
    "an expression": json.loads(dumps(F("x"))),
    "a namedtuple": wire(tags.ROW, {"a": 1, "b": 2}),
}
packing.load_django_kinds()
TAGS = sorted(packing.decoders)


def contents(hostile: Any) -> Iterator[Any]:
    yield hostile
    for count in range(1, 6):
        yield [hostile] * count
        yield ["x", *[hostile] * count]
        yield ["tests.codec.traps:Order", *[hostile] * count]
        yield ["django.db.models.expressions:Value", *[hostile] * count]
    for name in ("a", "model", "query", "own", "_fields"):
        yield {name: hostile}
    yield {**QUERYSET["$"][1], "own": hostile}
    yield {**QUERYSET["$"][1], "_prefetch_related_lookups": hostile}


@pytest.mark.parametrize("hostile", HOSTILE.values(), ids=HOSTILE.keys())
@pytest.mark.parametrize("tag", TAGS)
def test_a_decoder_only_holds_what_it_is_given(tag: str, hostile: Any) -> None:
    # No database is allowed here: iterating over a queryset fails the test.
    before = set(sys.modules)
    refused = []
    for content in contents(hostile):
        try:
            decoded(wire(tag, content))
        except PayloadError as error:
            refused.append(repr(error.__cause__))
    assert traps.touched == []
    assert set(sys.modules) == before
    assert "Database access" not in "".join(refused)


# Nothing is imported.


@pytest.mark.parametrize("module", UNLOADED)
@pytest.mark.parametrize(
    "value",
    [
        wire(tags.CLASS, "{}:Command"),
        wire(tags.FUNCTION, "{}:open"),
        wire(tags.ENUM, ["{}:Wave", "X"]),
        wire(tags.FLAG, ["{}:Wave", 1]),
        wire(tags.DATACLASS, ["{}:Wave", {}]),
        wire(tags.NAMEDTUPLE, ["{}:Wave", {}]),
        wire(tags.EXPRESSION, ["{}:Wave", [], {}]),
        wire(tags.TASK, "{}.Command"),
        wire(tags.LAZY, ["reverse", ["admin:index"], {"urlconf": "{}"}]),
        wire(tags.LAZY, ["reverse", ["admin:index", "{}"], {}]),
        {**QUERYSET, "$": ["queryset", {**QUERYSET["$"][1], "class": "{}:Wave"}]},
        {**QUERYSET, "$": ["queryset", {**QUERYSET["$"][1], "rows": "{}:Wave"}]},
    ],
    ids=lambda value: f"{value['$'][0]}",
)
def test_a_payload_imports_no_module(module: str, value: Any) -> None:
    assert module not in sys.modules
    text = json.dumps(value).replace("{}", module)
    with pytest.raises(PayloadError):
        str(loads(text.encode()))
    assert module not in sys.modules


def test_a_module_that_a_setting_lists_is_imported() -> None:
    module = "tests.testapp.unimported"
    sys.modules.pop(module, None)
    with override_settings(CLOUDTASK={"TRUSTED_MODULES": [module]}):
        found = decoded(wire(tags.FUNCTION, f"{module}:reached"))
    assert found is sys.modules.pop(module).reached


def test_the_lazy_attributes_of_a_module_stay_lazy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(traps, "__getattr__", traps.call_me, raising=False)
    with pytest.raises(PayloadError):
        decoded(wire(tags.FUNCTION, f"{HERE}:made_on_demand"))
    assert traps.touched == []


# Lazy strings.

SECRET = wire(tags.FUNCTION, "cloudtask.conf:emulator_host")


@pytest.mark.parametrize(
    ("text", "args"),
    [
        ("{0.__globals__[django_settings].SECRET_KEY}", [FUNCTION]),
        ("{}", [FUNCTION]),
        ("{}", [TRAP]),
        ("{}", [[1]]),
        ("{}", [wire(tags.CLASS, "int")]),
        ("{}", [json.loads(dumps(Book(title="x")))]),
        ("{0.real}", [1]),
        ("{0[0]}", ["abc"]),
        ("{:{0.real}}", [1, 2]),
        ("{0:{1.real}}", [1, 2]),
        ("{0:{1:{0.real}}}", [1, 2]),
        ("{0!r:.{0[0]}}", ["a"]),
        ("{:99999999}", ["a"]),
        ("{:.{1:099999}}", ["a", 2]),
        ("{a.real}", []),
        (LAZY, [FUNCTION]),
        (TRAP, []),
        (FUNCTION, []),
    ],
)
def test_a_lazy_format_takes_scalars_and_looks_into_none(text: Any, args: Any) -> None:
    value = wire(tags.LAZY, ["format_lazy", [text, *args], {"a": 1}])
    with pytest.raises(PayloadError):
        str(decoded(value))
    assert traps.touched == []


def test_a_format_that_is_lazy_itself_looks_into_nothing_either() -> None:
    inner = wire(tags.LAZY, ["lazystr", ["{0.__class__} {a[0]} {0:99999999}"], {}])
    value = wire(tags.LAZY, ["format_lazy", [inner, LAZY], {"a": LAZY}])
    arrived = decoded(value)
    assert isinstance(arrived, Promise)
    with pytest.raises(ValueError, match="look into"):
        str(arrived)


@pytest.mark.parametrize(
    "call",
    [
        ["gettext", [TRAP], {}],
        ["gettext", [FUNCTION], {}],
        ["lazystr", [QUERYSET], {}],
        ["ngettext", ["a", "b", TRAP], {}],
        ["reverse", [FUNCTION], {}],
        ["reverse", ["admin:index"], {"args": [TRAP]}],
        ["reverse", ["admin:index"], {"kwargs": {"a": [1]}}],
        ["reverse", ["admin:index"], {"query": QUERYSET}],
        ["reverse", ["admin:index"], {"current_app": TRAP}],
    ],
    ids=str,
)
def test_any_other_lazy_call_takes_scalars_too(call: Any) -> None:
    with pytest.raises(PayloadError):
        decoded(wire(tags.LAZY, call))
    assert traps.touched == []


@pytest.mark.parametrize(
    "text",
    [
        format_lazy("{0.real}", 1),
        format_lazy("{}", ["a list"]),
        format_lazy("{}", Order(1)),
        format_lazy("{:10000}", "a"),
    ],
    ids=["attribute", "list", "dataclass", "wide"],
)
def test_what_a_worker_would_refuse_of_a_lazy_string_is_refused_at_once(
    text: Any,
) -> None:
    with pytest.raises(UnsupportedValue):
        dumps(text)


@pytest.mark.parametrize(
    "text",
    [
        format_lazy("{a b}", **{"a b": 1}),
        format_lazy("{:>5}|{!r}|{:{w}}|{{}}", "a", "b", "c", w=3),
        format_lazy(gettext_lazy("Yes"), 1),
        format_lazy("{}", gettext_lazy("Yes")),
    ],
    ids=str,
)
def test_other_lazy_formats_read_the_same(text: Any) -> None:
    again = loads(dumps(loads(dumps(text))))
    assert str(again) == str(text)


# Attributes whose names come from a value.


def marked(instance: Any, name: str = "$") -> Any:
    instance.__dict__[name] = ["class", "int"]
    return instance


def test_an_attribute_named_as_a_tag_is_an_attribute() -> None:
    for name in ("$", "\\u0024", "$$", ""):
        arrived = loads(dumps(marked(Order(5), name)))
        assert vars(arrived) == {**vars(Order(5)), name: ["class", "int"]}
    queryset = loads(dumps(marked(Book.objects.all())))
    assert vars(queryset)["$"] == ["class", "int"]
    expression = loads(dumps(marked(Loud("x"))))
    assert vars(expression)["$"] == ["class", "int"]


def test_a_prefetched_list_named_as_a_tag_is_a_list() -> None:
    author = Author(name="Ada")
    author.__dict__["$"] = [Book(title="x")]
    author._prefetched_objects_cache = {}  # type: ignore[attr-defined]
    arrived = loads(dumps(author, wipe_related_caches=False))
    assert [book.title for book in vars(arrived)["$"]] == ["x"]


def test_a_value_hides_no_method() -> None:
    order = Order(5)
    order.total = traps.call_me  # type: ignore[assignment, method-assign]
    queryset = Book.objects.all()
    queryset.count = traps.call_me  # type: ignore[assignment]
    expression = Loud("x")
    expression.as_sql = traps.call_me  # type: ignore[assignment]
    for value in (order, queryset, expression):
        with pytest.raises(UnsupportedValue):
            dumps(value)
    fields = {"amount": 1}
    for beside in ({"total": FUNCTION}, {"__class__": 1}, {"__call__": FUNCTION}):
        with pytest.raises(PayloadError):
            decoded(wire(tags.DATACLASS, [f"{HERE}:Order", fields, beside]))


@pytest.mark.parametrize(
    "state",
    [
        {"as_sql": FUNCTION},
        {"where": FUNCTION},
        {"where": [{"a": FUNCTION}]},
        {"base_table_class": wire(tags.MODEL, "testapp.Book")},
        {"compiler": "SQLDeleteCompiler"},
        {"__class__": 1},
        {"__dict__": {}},
        {"model": wire(tags.CLASS, f"{HERE}:Trap")},
        {"model": wire(tags.TASK, "tests.testapp.tasks.note")},
    ],
    ids=str,
)
def test_a_query_holds_no_function_and_keeps_its_methods(state: Any) -> None:
    with pytest.raises(PayloadError):
        in_graph(QUERY, state)


@pytest.mark.parametrize("name", ["_iterable_class", "_result_cache", "_db", "filter"])
def test_a_queryset_keeps_what_django_keeps_in_it(name: str) -> None:
    value = {**QUERYSET["$"][1], "own": {name: FUNCTION}}
    with pytest.raises(PayloadError):
        decoded(wire(tags.QUERYSET, value))


@pytest.mark.parametrize("name", ["_state", "__class__", "title", "author_id"])
def test_a_prefetched_list_replaces_no_field(name: str) -> None:
    snapshot = json.loads(dumps(Book(title="x")))["$"][1]
    with pytest.raises(PayloadError):
        decoded(wire(tags.INSTANCES, [[snapshot, {}, {}, {name: [0]}]]))


@pytest.mark.parametrize("hostile", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_prefetched_relation_is_set_on_querysets_only(hostile: Any) -> None:
    snapshot = json.loads(dumps(Author(name="x")))["$"][1]
    value = [[snapshot, {}, {"books": [hostile, []]}, {}]]
    if hostile is QUERYSET:
        arrived = decoded(wire(tags.INSTANCES, value))
        assert arrived._prefetched_objects_cache["books"]._result_cache == []
        return
    with pytest.raises(PayloadError):
        decoded(wire(tags.INSTANCES, value))
    assert not hasattr(traps.Trap, "_result_cache")
    assert not hasattr(Book, "_result_cache")


# Nothing is called.


def test_a_constructor_of_the_project_is_not_called() -> None:
    data = dumps(Q(Loud("title")))
    traps.touched.clear()
    assert type(loads(data).children[0]) is Loud
    assert traps.touched == []
    with pytest.raises(PayloadError):
        decoded(wire(tags.EXPRESSION, [f"{HERE}:Loud", ["x"], {}]))
    assert traps.touched == []


def test_a_setter_is_not_called() -> None:
    data = dumps(Described(5))
    traps.touched.clear()
    assert loads(data).amount == 5
    decoded(wire(tags.DATACLASS, [f"{HERE}:Described", {"amount": TRAP}]))
    assert traps.touched == []


@pytest.mark.parametrize("hostile", [FUNCTION, wire(tags.CLASS, f"{HERE}:Trap")])
@pytest.mark.parametrize(
    "kind", ["expressions:Subquery", "expressions:Exists", "expressions:Value"]
)
def test_an_expression_gets_nothing_that_can_be_called(kind: str, hostile: Any) -> None:
    for args in ([hostile], [[hostile]], [{"a": hostile}]):
        path = f"django.db.models.{kind}"
        with pytest.raises(PayloadError):
            decoded(wire(tags.EXPRESSION, [path, args, {}]))
    with pytest.raises(UnsupportedValue):
        dumps(Value(traps.call_me))
    assert traps.touched == []


def test_a_subquery_is_made_of_a_query() -> None:
    order = wire(tags.DATACLASS, [f"{HERE}:Order", {"amount": 1}, {"query": 2}])
    for args, kwargs in (([order], {}), ([], {"queryset": order})):
        path = "django.db.models.expressions:Subquery"
        with pytest.raises(PayloadError):
            decoded(wire(tags.EXPRESSION, [path, args, kwargs]))


def test_a_field_reads_only_what_a_database_gives() -> None:
    label, db, adding, fields = json.loads(dumps(Book(title="x")))["$"][1][:4]
    for hostile in (TRAP, FUNCTION, QUERYSET, [TRAP]):
        given = {**fields, "title": wire(tags.PREPARED, hostile)}
        with pytest.raises(PayloadError):
            decoded(wire(tags.INSTANCE, [label, db, adding, given]))
    assert traps.touched == []


def test_a_subject_is_a_model_and_a_key() -> None:
    model = wire(tags.MODEL, "testapp.Book")
    for parts in (
        [wire(tags.CLASS, f"{HERE}:Trap"), 1, "default"],
        [FUNCTION, 1, "default"],
        [model, QUERYSET, "default"],
        [model, json.loads(dumps(F("id"))), "default"],
        [model, 1, TRAP],
        TRAP,
    ):
        with pytest.raises(PayloadError):
            decoded(wire(tags.SUBJECT, parts))
    assert traps.touched == []


# Nothing comes out as another type.


def test_an_enum_gets_no_members_beside_its_own() -> None:
    assert loads(dumps(Paper.SMALL)) is Paper.SMALL
    for tag, parts in ((tags.DATACLASS, {"width": 2}), (tags.NAMEDTUPLE, {})):
        with pytest.raises(PayloadError):
            decoded(wire(tag, [f"{HERE}:Paper", parts]))


def test_a_prefetch_keeps_its_kinds() -> None:
    content = json.loads(dumps(Prefetch("books", Book.objects.all())))["$"][1]
    for place in range(4):
        for hostile in (TRAP, FUNCTION, 3):
            changed = [*content]
            changed[place] = hostile
            with pytest.raises(PayloadError):
                decoded(wire(tags.PREFETCH, changed))


def test_expressions_of_django_still_travel_by_their_call() -> None:
    for value in (Lower("title"), Func(F("a"), function="X"), ~Q(a=1) | Q(b=2)):
        assert json.loads(dumps(value))["$"][0] in (tags.EXPRESSION, tags.Q)
        assert loads(dumps(value)) == value
