"""Classes that a payload may build as part of a query, and classes that are refused."""

import json

import pytest
from django.db.models.sql import Query

from cloudtask.codec import dumps, loads
from cloudtask.exceptions import PayloadError
from tests.testapp.models import Book

VERSION = json.loads(dumps(Book.objects.all()))["$"][1]["query"][0]


def built(path: str, state: object) -> object:
    graph = json.dumps({"$": ["node", [0, path, state]]})
    return loads(json.dumps({"$": ["graph", [VERSION, graph]]}).encode())


NOT_MACHINERY = [
    "os:system",
    "builtins:eval",
    "builtins:object",
    "subprocess:Popen",
    "django.db.models.fields:_load_field",
    "django.db.models.fields:_empty",
    "django.db.models.fields:NOT_PROVIDED",
    "django.db.models.deletion:CASCADE",
    "django.db.models.query:QuerySet",
    "django.db.models.base:Model",
    "django.db.models.sql.subqueries:DeleteQuery",
    "django.db.models.sql.subqueries:UpdateQuery",
    "django.db.models.sql.subqueries:InsertQuery",
    "django.db.models.sql.query:Query.clone",
    "django.db.models.sql.query:RawQuery",
    "django.db.models.sql.compiler:SQLCompiler",
    "django.db.models.expressions:connection",
    "django.db.models.sql:Query",
    "django.db.backends.sqlite3.base:DatabaseWrapper",
    "django.core.management.base:BaseCommand",
    "django.utils.functional:SimpleLazyObject",
    "tests.testapp.models:Book",
    "tests.codec.samples:Money",
    "tests.codec.samples:greet",
    "nothing.of.the.kind:Query",
    "",
    "Query",
]


@pytest.mark.parametrize("path", NOT_MACHINERY)
def test_only_a_class_of_the_query_machinery_is_built(path):
    with pytest.raises(PayloadError):
        built(path, {})


@pytest.mark.parametrize("path", NOT_MACHINERY)
def test_only_a_class_of_the_query_machinery_is_called_as_an_expression(path):
    with pytest.raises(PayloadError):
        loads(json.dumps({"$": ["expression", [path, [], {}]]}).encode())


@pytest.mark.parametrize(
    "path",
    ["django.db.models.sql.query:Query", "django.db.models.fields:CharField"],
)
def test_the_machinery_that_is_no_expression_is_not_called(path):
    with pytest.raises(PayloadError):
        loads(json.dumps({"$": ["expression", [path, [], {"a": 1}]]}).encode())


@pytest.mark.parametrize("state", [None, [], [["a", 1]], "ab", 3, [None, {"a": 1}]])
def test_a_state_is_a_dict(state):
    with pytest.raises(PayloadError):
        built("django.db.models.sql.query:Query", state)


def test_the_attributes_of_a_class_are_out_of_reach():
    before = dict(vars(Query))
    query = built("django.db.models.sql.query:Query", {"as_sql": 1, "model": None})
    assert vars(query) == {"as_sql": 1, "model": None}
    assert dict(vars(Query)) == before


def test_an_object_is_met_before_it_is_named_again():
    with pytest.raises(PayloadError):
        built("django.db.models.sql.query:Query", {"where": {"$": ["met", 0]}})


def test_nodes_stand_only_in_a_graph():
    for tag, payload in (
        ("node", [0, "django.db.models.sql.query:Query", {}]),
        ("met", 0),
    ):
        with pytest.raises(PayloadError, match="unknown tag"):
            loads(json.dumps({"$": [tag, payload]}).encode())


@pytest.mark.parametrize(
    "change",
    [
        {"query": None},
        {"query": [VERSION, "1"]},
        {"query": [VERSION, "{"]},
        {"query": [VERSION, '{"$":["node",[0]]}']},
        {"model": "testapp.Nothing"},
        {"model": 1},
        {"class": "subprocess:Popen"},
        {"class": "django.db.models.sql.query:Query"},
        {"rows": "os:system"},
        {"rows": "django.db.models.query:QuerySet"},
        {"own": 3},
    ],
)
def test_a_malformed_queryset_is_a_payload_error(change):
    wire = json.loads(dumps(Book.objects.all()))
    wire["$"][1].update(change)
    with pytest.raises(PayloadError):
        loads(json.dumps(wire).encode())


@pytest.mark.parametrize("tag", ["field", "relation"])
@pytest.mark.parametrize(
    "payload", [["testapp.Book", "x"], ["x", "y"], 1, [], ["", ""]]
)
def test_a_field_that_is_gone_is_a_payload_error(tag, payload):
    with pytest.raises(PayloadError):
        loads(json.dumps({"$": [tag, payload]}).encode())


@pytest.mark.parametrize("payload", [["NAND", False, []], [[], False, []], [1], None])
def test_a_malformed_q_is_a_payload_error(payload):
    with pytest.raises(PayloadError):
        loads(json.dumps({"$": ["q", payload]}).encode())
