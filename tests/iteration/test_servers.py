"""What only a real server of databases does: it ends slow statements, and has keys that
are NaN."""

from __future__ import annotations

import pytest
from django.db import connection
from django.db.models import CharField, Func

from cloudtask.iteration import RunState
from cloudtask.testing import run_queued
from tests.durability.database import committing
from tests.iteration import tasks
from tests.iteration.models import Amount, Level, Thing
from tests.iteration.tasks import trace

ROWS = 120
# A condition that takes 10 ms for each row that it is asked of, and a way to have the
# server end statements that take longer than 300 ms.
SLOW = {
    "postgresql": ("(pg_sleep(0.01)::text)", "", "SET statement_timeout = 300"),
    "mysql": ("SLEEP(0.01)", "0", "SET SESSION max_statement_time = 0.3"),
}


@pytest.fixture
def committed(tmp_path, db):
    """A transaction would be broken by the statement that is ended."""
    with committing(tmp_path):
        yield
        with connection.cursor() as cursor:
            if connection.vendor == "postgresql":
                cursor.execute("SET statement_timeout = 0")
        Thing.objects.all().delete()


def slow_things():
    template, value, _ = SLOW[connection.vendor]
    slow = Func(template=template, output_field=CharField())
    return Thing.objects.alias(slow=slow).filter(slow=value)


@pytest.mark.django_db(databases=["default", "other"])
@pytest.mark.parametrize("atomic", [None, "row"])
def test_statements_that_the_server_ends_become_smaller_until_all_rows_are_called(
    committed, atomic
):
    if connection.vendor not in SLOW:
        pytest.skip("SQLite ends no statement")
    Thing.objects.bulk_create(Thing(id=n) for n in range(1, ROWS + 1))
    with connection.cursor() as cursor:
        cursor.execute(SLOW[connection.vendor][2])
    trace.clear()
    ended = []

    def note(execute, *args):
        try:
            return execute(*args)
        except Exception as error:
            ended.append(error)
            raise

    run = tasks.visit_only.iterate(slow_things(), shards=2, keep=True, atomic=atomic)
    with connection.execute_wrapper(note):
        run_queued()

    assert ended, "the server ended no statement"
    assert run.state is RunState.FINISHED, run.error
    assert sorted(trace.rows) == list(range(1, ROWS + 1))
    assert run.report().done == ROWS


@pytest.mark.django_db
@pytest.mark.parametrize("model", [Level, Amount])
class TestKeysThatAreNaN:
    @pytest.fixture(autouse=True)
    def rows(self, model):
        if connection.vendor != "postgresql":
            pytest.skip("only PostgreSQL has such keys")
        model.objects.bulk_create(model(at=n) for n in range(1, 31))
        with connection.cursor() as cursor:
            cursor.execute(f"INSERT INTO {model._meta.db_table} VALUES ('NaN')")

    @pytest.mark.parametrize("shards", [1, 3])
    @pytest.mark.parametrize("atomic", [None, "row"])
    def test_the_run_fails_and_says_why(self, model, shards, atomic):
        trace.clear()
        run = tasks.visit_only.iterate(
            model.objects.all(),
            finalize=tasks.finalize,
            shards=shards,
            atomic=atomic,
            keep=True,
        )
        run_queued()

        assert run.state is RunState.FAILED
        assert "NaN" in run.error
        assert "finalize" not in trace.calls

    def test_rows_beside_them_are_walked(self, model):
        trace.clear()
        run = tasks.visit_only.iterate(model.objects.filter(at__lt=1000), keep=True)
        run_queued()

        assert run.state is RunState.FINISHED, run.error
        assert len(trace.rows) == 30
