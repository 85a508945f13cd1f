"""States change along their tables only, and the page shows them."""

from __future__ import annotations

import pytest
from django.db import connection

from cloudtask.runs import RUN_TRANSITIONS, SHARD_TRANSITIONS, RunState
from tests.iteration import diagram, matrix
from tests.iteration.matrix import Case

TABLES = {
    "cloudtask_iterationrun": RUN_TRANSITIONS,
    "cloudtask_iterationshard": SHARD_TRANSITIONS,
}


def test_the_page_shows_the_tables_of_the_code():
    page = diagram.PAGE.read_text()

    assert page == diagram.renewed(page), "run: python -m tests.iteration.diagram"


def test_every_state_of_a_run_can_be_reached_and_left():
    after = {state for states in RUN_TRANSITIONS.values() for state in states}

    assert set(RUN_TRANSITIONS) == set(RunState)
    # No store has a run whose transaction was rolled back.
    assert after | {RunState.WAITING, RunState.ROLLED_BACK} == set(RunState)


@pytest.mark.django_db
@pytest.mark.parametrize("fault", ["crash", "delay past the lease", "reorder"])
@pytest.mark.parametrize("point", ["plan.after_plan", "shard.after_release"])
def test_the_database_sees_no_other_change(point, fault):
    if connection.vendor != "sqlite":
        pytest.skip("the log is made of SQLite's triggers")
    with connection.cursor() as cursor:
        cursor.execute("CREATE TEMP TABLE log (name, before, after)")
        for table in TABLES:
            cursor.execute(
                f"CREATE TEMP TRIGGER log_{table} AFTER UPDATE OF state ON {table} "
                f"BEGIN INSERT INTO log VALUES ('{table}', OLD.state, NEW.state); END"
            )

    matrix.run(Case("plain", point, fault, 1))

    with connection.cursor() as cursor:
        cursor.execute("SELECT DISTINCT name, before, after FROM log")
        seen = cursor.fetchall()
        cursor.execute("DROP TABLE log")
    assert len(seen) >= 6
    for table, before, after in seen:
        assert after in TABLES[table][before], (table, before, after)
