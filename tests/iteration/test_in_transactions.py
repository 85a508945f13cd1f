"""Control of runs inside a transaction: what follows goes with its commit."""

from __future__ import annotations

import pytest
from django.db import transaction

from cloudtask import PermanentTaskFailure, failpoints
from cloudtask.failpoints import Crashed
from cloudtask.iteration import RunState
from cloudtask.iteration.steps import send_last
from cloudtask.models import OutboxMessage
from cloudtask.sending import relay
from cloudtask.stores import store
from cloudtask.testing import run_queued
from tests.durability.database import committing, rolled_back
from tests.iteration import tasks
from tests.iteration.models import Effect, Thing
from tests.iteration.starting import start
from tests.iteration.tasks import trace
from tests.support import clock

METHODS = ["resume", "cancel", "retry_failures"]


@pytest.fixture
def committed(tmp_path, db):
    with committing(tmp_path):
        yield
        for model in (Thing, Effect):
            model.objects.all().delete()


def ready_for(method, world):
    """A run of which nothing waits, and that `method` makes go on."""
    run = start(4, shards=1)
    if method == "retry_failures":
        trace.raises[1] = [PermanentTaskFailure("no")]
    else:
        run.pause()
    world.drain()
    return run


def has_gone_on(method, run):
    run.refresh()
    if method == "cancel":
        return run.state is RunState.CANCELLED and trace.calls == ["on_failure"]
    is_over = run.state is RunState.FINISHED and trace.calls.count("finalize") == 1
    return is_over and (method == "resume" or run.report().failed == 0)


@pytest.mark.django_db(databases=["default", "other"])
@pytest.mark.parametrize("method", METHODS)
class TestThatCommits:
    def test_nothing_is_sent_before_the_commit(self, world, committed, method):
        run = ready_for(method, world)

        with transaction.atomic():
            getattr(run, method)()
            assert not world.step()

        world.drain()  # without the sweeper
        assert has_gone_on(method, run)
        assert not OutboxMessage.objects.exists()

    def test_nothing_is_sent_after_a_rollback(self, world, committed, method):
        run = ready_for(method, world)
        before = run.refresh().state

        with rolled_back():
            getattr(run, method)()

        assert not world.step()
        assert run.refresh().state is before
        assert not OutboxMessage.objects.exists()

    def test_a_commit_that_could_not_send_leaves_rows(self, world, committed, method):
        run = ready_for(method, world)

        def crash():
            raise Crashed

        with (
            failpoints.at("outbox.committed", crash),
            pytest.raises(Crashed),
            transaction.atomic(),
        ):
            getattr(run, method)()
        assert not world.step()
        clock.move(60)
        relay.relay()

        world.drain()
        assert has_gone_on(method, run)


@pytest.mark.django_db
@pytest.mark.parametrize("method", METHODS)
class TestInATestCase:
    def test_a_block_is_run_with_the_queue(self, world, method):
        run = ready_for(method, world)

        with transaction.atomic():
            getattr(run, method)()
            assert not world.step()

        run_queued()
        assert has_gone_on(method, run)

    def test_a_block_that_is_rolled_back_sends_nothing(self, world, method):
        run = ready_for(method, world)

        with rolled_back():
            getattr(run, method)()

        assert not run_queued().attempts

    def test_without_a_block_of_its_own(self, world, method):
        run = ready_for(method, world)

        getattr(run, method)()

        run_queued()
        assert has_gone_on(method, run)


@pytest.mark.django_db(databases=["default", "other"])
def test_a_step_that_was_sent_before_is_as_good(world, committed):
    run = ready_for("cancel", world)
    run.cancel()

    with transaction.atomic():
        send_last(store().load_run(run.id))

    assert not OutboxMessage.objects.exists()
    assert relay.parked("default") == []
    world.drain()
    assert has_gone_on("cancel", run)


@pytest.mark.django_db(databases=["default", "other"])
@pytest.mark.parametrize("rows", [0, 1, 5])
@pytest.mark.parametrize("verb", ["iterate", "map"])
@pytest.mark.parametrize("point", ["outbox.added", "outbox.committed", "outbox.sent"])
def test_a_run_of_a_transaction_that_dies_is_whole_or_is_not_there(
    world, committed, point, verb, rows
):
    Thing.objects.bulk_create(Thing(id=n) for n in range(1, rows + 1))

    def crash():
        raise Crashed

    begin = {
        "iterate": lambda how: tasks.visit.iterate(Thing.objects.all(), **how),
        "map": lambda how: tasks.visit_item.map(list(range(1, rows + 1)), **how),
    }[verb]
    with (
        failpoints.at(point, crash),
        pytest.raises(Crashed),
        transaction.atomic(),
    ):
        begin({"finalize": tasks.finalize, "shards": 3})
    clock.move(60)
    relay.relay()

    world.drain()  # without the sweeper
    is_committed = point != "outbox.added"
    assert sorted(trace.rows) == (list(range(1, rows + 1)) if is_committed else [])
    assert trace.calls.count("finalize") == is_committed
    assert not OutboxMessage.objects.exists()
