"""Every failpoint of a run, each with every fault: the invariants hold."""

from __future__ import annotations

from collections import Counter

import pytest

from cloudtask import clock, failpoints
from cloudtask.iteration import RunState
from cloudtask.iteration import list as list_runs
from cloudtask.stores import store
from tests.iteration.world import FAULTS, World, fault_at
from tests.testapp import tasks
from tests.testapp.models import Author

POINTS = sorted(
    point
    for point in failpoints.POINTS
    if point.partition(".")[0] in ("step", "plan", "shard", "finalize")
    or point in ("execute.received", "execute.before_settle", "execute.settled")
)
PASSAGES = (1, 2, 3)
ROWS = 30
SHARDS = 3


@pytest.fixture(autouse=True)
def _clean():
    tasks.calls.clear()
    before = clock.now()
    yield
    clock.move(before - clock.now())


@pytest.fixture
def authors(db):
    return Author.objects.bulk_create([Author(name=f"a{n}") for n in range(ROWS)])


def check(authors, *, exactly_once, world):
    rows = Counter(c[0] for c in tasks.calls if c[0] != "finalize")
    assert set(rows) == {author.pk for author in authors}, "a row was lost"
    if exactly_once:
        assert set(rows.values()) == {1}, "a row ran twice without a crash"
    run = list_runs()[0]
    assert run.state is RunState.FINISHED, run.error
    report = run.report()
    assert report.done + report.failed + report.skipped == len(authors)
    finals = [n for n, c in enumerate(tasks.calls) if c[0] == "finalize"]
    assert finals, "finalize never ran"
    assert finals[0] >= len(authors), "finalize ran before the rows"
    after = [c for c in tasks.calls[finals[0] :] if c[0] != "finalize"]
    assert not after, "a row ran after finalize"
    assert world.waiting == []
    return len(finals)


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("passage", PASSAGES)
def test_a_fault_at_any_point_loses_no_row(authors, point, passage, fault):
    world = World()
    tasks.visit.iterate(
        Author.objects.all(), finalize=tasks.visited, shards=SHARDS, keep=True, transactional=False
    )
    with fault_at(world, point, passage, FAULTS[fault]):
        world.run()
    harmless = fault == "concurrent duplicate"
    finals = check(authors, exactly_once=harmless, world=world)
    reentered = point in ("finalize.after_call", "finalize.after_settle") or (
        fault == "delay past the lease" and point == "finalize.before_call"
    )
    if not reentered:
        assert finals == 1
    assert store().load_failures(list_runs()[0].id) == []
