"""Rows that Django has in Datastore, by django-gcloud-connectors."""

from __future__ import annotations

import pytest
from google.cloud.datastore import Entity

from cloudtask.iteration import RunState, planner
from cloudtask.iteration.planner import estimates
from cloudtask.testing import run_queued
from tests.iteration import tasks
from tests.iteration.models import Thing, Word
from tests.iteration.tasks import trace
from tests.iteration.test_planner import rows_of
from tests.stores.datastore_fixtures import empty_store
from tests.support.entities import ALIAS

pytest.importorskip("gcloudc", reason="it needs Django 5.2, on Python 3.11")
pytestmark = pytest.mark.django_db


@pytest.fixture
def put(entities):
    """Makes entities that Django sees as rows of a model in the database `entities`."""
    client = entities.connection._client

    def put(model, rows):
        kind = model._meta.db_table
        made = []
        for key, values in rows:
            made.append(Entity(client.key(kind, key, namespace=entities.namespace)))
            made[-1].update(values)
        for start in range(0, len(made), 400):
            client.put_multi(made[start : start + 400])
        return model.objects.using(ALIAS)

    return put


@pytest.fixture(params=["database", "datastore"])
def kept(request, faults, settings):
    """The store of the run: the database, or the Datastore that has the rows."""
    if request.param == "datastore":
        settings.CLOUDTASK = {"STORE": empty_store()}


def sizes(plan, rows):
    return [len(rows_in) for rows_in in (list(p.bounds.of(rows)) for p in plan.pieces)]


def test_each_entity_is_visited_and_finalize_follows(put, kept):
    things = put(Thing, [(n, {"size": n % 3}) for n in range(1, 31)])
    run = tasks.visit_only.iterate(
        things.filter(size=1), finalize=tasks.finalize, shards=3, keep=True
    )

    run_queued()

    assert sorted(trace.rows) == list(range(1, 31, 3))
    assert trace.calls.count("finalize") == 1
    assert run.refresh().state is RunState.FINISHED


def test_many_entities_are_cut_where_datastore_scatters_them(put):
    keys = [n * n for n in range(1, 2001)]
    things = put(Thing, [(key, {"size": 0}) for key in keys])

    plan = planner.plan(things.all(), 4, include_new=False)

    assert plan.total == 2000
    assert rows_of(plan, things.all()) == keys
    assert len(plan.pieces) == 4
    assert max(sizes(plan, things.all())) < 2 * 2000 / 4


# The Datastore emulator compares names as Java does.
ORDERS = {"datastore": "utf-16-be", "firestore": "utf-8"}


def test_names_are_in_the_order_of_their_bytes(put, faults):
    words = [f"{letter}{n}" for letter in "aZé\uffff\U0001f600" for n in range(300)]
    rows = put(Word, [(word, {}) for word in words])

    plan = planner.plan(rows.all(), 3, include_new=False)

    order = ORDERS[faults.kind]
    assert rows_of(plan, rows.all()) == sorted(words, key=lambda w: w.encode(order))
    assert len(plan.pieces) == 3


def test_where_too_few_are_scattered_the_keys_are_walked(put, faults):
    if faults.kind == "datastore":
        pytest.skip("that emulator scatters all entities")
    things = put(Thing, [(n, {"size": 0}) for n in range(1, 701)])

    plan = planner.plan(things.all(), 20, include_new=False)

    assert estimates.by_scatter(things.all(), 20) is None
    assert rows_of(plan, things.all()) == list(range(1, 701))
    assert sizes(plan, things.all()) == [35] * 20


def test_a_database_with_sql_is_none(db):
    assert not planner.is_datastore(Thing.objects.all())
    assert estimates.by_scatter(Thing.objects.all(), 4) is None
