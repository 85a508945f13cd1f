"""A row that has failed for good is told by one line of the log, and can be
discarded."""

from __future__ import annotations

import logging

import pytest

from cloudtask import PermanentTaskFailure, current
from cloudtask.exceptions import CloudTaskError
from cloudtask.failpoints import Crashed
from cloudtask.iteration import Iteration, RunState
from cloudtask.stores import store
from tests.iteration import tasks
from tests.iteration.models import Thing
from tests.iteration.tasks import trace
from tests.iteration.test_rows import counts, walk

pytestmark = pytest.mark.django_db

SECRET = "card 4111 1111"


def warnings(caplog):
    return [
        one.getMessage()
        for one in caplog.records
        if one.name == "cloudtask" and "failed for good" in one.getMessage()
    ]


def test_a_row_that_is_given_up_is_told_once_after_its_last_attempt(
    world, things, caplog
):
    things(3)
    trace.raises[2] = [ValueError(SECRET)] * 9

    run = walk(world, tasks.visit.using(max_attempts=3), args=(SECRET,))

    [line] = warnings(caplog)
    assert line.startswith(
        f"Row 2 of iteration {run.id} of tests.iteration.tasks.visit has failed for "
        "good at attempt 3: ValueError."
    )
    assert f"cloudtask_iterations show {run.id} --failures" in line
    assert SECRET not in line
    assert counts(run) == (2, 1, 0)


def test_the_line_is_a_warning_of_the_logger_that_reports_problems(
    world, things, caplog
):
    things(1)
    trace.raises[1] = [PermanentTaskFailure("never")]

    walk(world)

    [record] = [one for one in caplog.records if "for good" in one.getMessage()]
    assert (record.name, record.levelno) == ("cloudtask", logging.WARNING)
    assert record.exc_info is None


def test_a_row_that_succeeds_at_a_later_attempt_is_not_told(world, things, caplog):
    things(2)
    trace.raises[1] = [ValueError("no")] * 2

    assert counts(walk(world)) == (2, 0, 0)
    assert warnings(caplog) == []


def test_each_row_that_is_skipped_is_told(world, things, caplog):
    things(4)
    trace.raises.update({key: [ValueError("no")] for key in (2, 3)})

    walk(world, on_error="skip", shards=1)

    assert [line.partition(" of ")[0] for line in warnings(caplog)] == [
        "Row 2",
        "Row 3",
    ]


@pytest.mark.parametrize("before", [[], [ValueError("first")]])
def test_a_row_that_kills_its_worker_is_told(world, things, caplog, before):
    things(3)
    trace.raises[2] = [*before, *(Crashed() for _ in range(9))]

    walk(world, tasks.visit.using(max_attempts=4), shards=1)

    [line] = warnings(caplog)
    assert line.startswith("Row 2 of iteration ")
    assert "its worker was killed" in line


def test_a_row_that_stops_its_run_is_told_as_an_error_and_not_twice(
    world, things, caplog
):
    things(3)
    trace.raises[2] = [ValueError("no")]

    walk(world, on_error="abort", shards=1)

    lines = [one for one in caplog.records if one.getMessage().startswith("Row 2 ")]
    assert [one.levelno for one in lines] == [logging.ERROR]


def test_a_long_key_is_cut(world, things, caplog):
    assert Thing.objects.count() == 0
    tasks.refuse.map(["k" * 5_000], transactional=False)
    world.run()

    [line] = warnings(caplog)
    assert len(line) < 600


def accept(*args):
    current().iteration.discard_failures()


def test_a_run_whose_finalize_discards_its_failed_rows_keeps_only_its_counts(
    any_store, world, things
):
    things(4)
    trace.raises.update({key: [ValueError("no")] for key in (2, 3)})

    run = walk(world, on_error="skip", shards=2, finalize=accept, keep=False)

    assert counts(run) == (2, 0, 2)
    assert run.failures() == []
    assert store().load_run(run.id).is_summary
    assert store().count_iterations([RunState.RUNNING]).failed_rows == 0


def test_rows_of_a_run_that_is_gone_can_not_be_discarded(db):
    with pytest.raises(CloudTaskError, match="There is no iteration gone"):
        Iteration("gone").discard_failures()
