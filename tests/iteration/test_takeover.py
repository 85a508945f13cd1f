"""Another delivery takes the lease of a page that is one transaction: two connections
of PostgreSQL."""

from __future__ import annotations

import threading
from collections import Counter

import pytest
from django.db import connection, connections

from cloudtask import failpoints
from cloudtask.iteration import RunState, rows
from tests.durability.database import committing
from tests.iteration import tasks
from tests.iteration.models import Effect, Thing
from tests.iteration.tasks import trace
from tests.iteration.world import World
from tests.support import clock
from tests.support.waiting import PATIENCE, wait_until

ROWS = 8


@pytest.fixture
def committed(tmp_path, monkeypatch):
    monkeypatch.setattr(rows, "WHOLE_FIRST", ROWS + 1)  # one page has them all
    if connection.vendor != "postgresql":
        pytest.skip("two connections write at once on PostgreSQL")
    with committing(tmp_path):
        yield
        Effect.objects.all().delete()
        Thing.objects.all().delete()


def start(world):
    Thing.objects.bulk_create(Thing(id=n) for n in range(1, ROWS + 1))
    run = tasks.visit.iterate(
        Thing.objects.all(),
        finalize=tasks.finalize,
        shards=1,
        atomic="page",
        keep=True,
        transactional=False,
    )
    world.step()
    return run, world.next()[2]


class Hanging(threading.Thread):
    """A delivery that stops at a failpoint, when it passes it for the first time."""

    def __init__(self, entry, point):
        super().__init__()
        self.world, self.entry, self.point = World(), entry, point
        self.hangs, self.may_go_on = threading.Event(), threading.Event()
        self.start()

    def run(self):
        with failpoints.at(self.point, self.stop):
            self.world.deliver(self.entry, 0)
        connections.close_all()

    def stop(self):
        if threading.current_thread() is self and not self.hangs.is_set():
            self.hangs.set()
            assert self.may_go_on.wait(PATIENCE)


def check(run, world):
    world.run()
    effects = Counter(Effect.objects.values_list("key", flat=True))
    assert effects == {str(key): 1 for key in range(1, ROWS + 1)}
    assert trace.calls.count("finalize") == 1
    assert run.refresh().state is RunState.FINISHED
    assert run.report().done == ROWS


@pytest.mark.django_db(databases=["default", "other"])
def test_a_page_whose_lease_was_taken_is_rolled_back(committed, world):
    run, entry = start(world)
    first = Hanging(entry, "shard.before_checkpoint")
    assert first.hangs.wait(PATIENCE)
    clock.move(61)

    world.deliver(entry, 1)  # takes the lease, and does all rows
    assert Effect.objects.count() == ROWS
    first.may_go_on.set()
    first.join()

    check(run, world)
    assert len(trace.rows) == 2 * ROWS


@pytest.mark.django_db(databases=["default", "other"])
def test_a_page_that_has_written_its_cursor_keeps_others_waiting(committed, world):
    run, entry = start(world)
    first = Hanging(entry, "shard.after_checkpoint")
    assert first.hangs.wait(PATIENCE)
    clock.move(61)

    def second():
        world.deliver(entry, 1)
        connections.close_all()

    other = threading.Thread(target=second)
    other.start()
    wait_until(waits_for_a_lock, "the second delivery waits for the first one's row")
    first.may_go_on.set()
    first.join()
    other.join()

    check(run, world)
    assert len(trace.rows) == ROWS


def waits_for_a_lock():
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT count(*) FROM pg_stat_activity "
            "WHERE wait_event_type = 'Lock' AND datname = current_database()"
        )
        return cursor.fetchone()[0]
