"""The sweeper when something keeps failing: the others have their turn."""

from __future__ import annotations

import io

import pytest
from django.core.management import call_command
from django.test import override_settings

from cloudtask.exceptions import EnqueueUnavailable, QueueNotFound
from cloudtask.iteration import RunState, sweep
from cloudtask.iteration import list as list_runs
from cloudtask.stores import store
from cloudtask.stores.datastore.client import clients
from cloudtask.transports import memory
from tests.iteration import tasks
from tests.iteration.starting import at_point, start
from tests.iteration.tasks import trace
from tests.iteration.world import Hiccup
from tests.stores.datastore_fixtures import KINDS

pytestmark = pytest.mark.django_db
OLD = {"default": {}, "old": {}}


def lose_finalize(world):
    """A run whose finalize is lost."""
    run = tasks.visit_item.map(
        ["item"], finalize=tasks.finalize, keep=True, transactional=False
    )
    while run.refresh().state is not RunState.FINALIZING:
        world.step()
    world.purge()
    return run


class TestAQueueThatIsGone:
    @pytest.fixture
    def gone(self, world):
        """A run on a queue that the settings do not have any more."""
        with override_settings(CLOUDTASK={"QUEUES": OLD}):
            run = start(4, tasks.visit.using(queue="old"))
            world.step()
            world.purge()
        with override_settings(CLOUDTASK={"QUEUES": {"default": {}}}):
            yield run

    def test_the_others_have_their_turn(self, world, gone):
        run = lose_finalize(world)
        world.later()

        with pytest.raises(QueueNotFound, match="old"):
            sweep()
        world.drain()

        assert run.refresh().state is RunState.FINISHED

    def test_its_run_says_so(self, world, gone):
        world.later()
        with pytest.raises(QueueNotFound):
            sweep()

        assert "A lost step can't be made again: " in gone.refresh().error
        assert "old" in gone.error
        with override_settings(CLOUDTASK={"QUEUES": OLD}):
            world.run()
        assert (gone.refresh().state, gone.error) == (RunState.FINISHED, "")

    @pytest.mark.django_db(databases=["default", "other"])
    def test_the_command_that_cron_runs_tells_of_it(self, world, gone):
        world.later()
        errors = io.StringIO()

        call_command("cloudtask_relay", stdout=io.StringIO(), stderr=errors)

        assert "Not every iteration was swept: " in errors.getvalue()


@pytest.mark.django_db(databases=["default", "other"])
def test_no_error_ends_the_command_that_relays(world):
    start(4)
    world.step()
    world.purge()
    world.later()

    def fail():
        raise Hiccup("an error that nobody thought of")

    errors = io.StringIO()
    with at_point("step.before_send", 1, fail):
        call_command("cloudtask_relay", stdout=io.StringIO(), stderr=errors)

    assert "nobody thought of" in errors.getvalue()


def test_an_outage_does_not_take_all_the_time_there_is(world):
    start(4)
    world.step()
    world.purge()
    world.later()
    tried = []

    def away(message, stage):
        tried.append(message)
        raise EnqueueUnavailable("Cloud Tasks did not answer")

    memory.queue().trouble = away
    assert sweep(seconds=0.0) == 0
    assert tried == []
    with pytest.raises(EnqueueUnavailable):
        sweep()
    memory.queue().trouble = None
    world.run()

    assert list_runs()[0].state is RunState.FINISHED


@pytest.mark.parametrize("any_store", KINDS, indirect=True)
class TestADescriptionThatIsDamaged:
    @pytest.fixture
    def damaged(self, any_store, world):
        """A run of whose description the chunks are missing."""
        run = tasks.visit_item.map(
            [f"{n:030}" for n in range(60_000)],
            on_failure=tasks.on_failure,
            transactional=False,
        )
        world.purge()
        place = store().place  # type: ignore[attr-defined]
        client = clients.get(place)
        query = client.query(kind="CloudtaskChunk", namespace=place.namespace)
        query.keys_only()
        client.delete_multi([chunk.key for chunk in query.fetch()])
        return run

    def test_it_keeps_nothing_back_and_fails(self, world, damaged):
        run = lose_finalize(world)

        world.run()

        assert run.refresh().state is RunState.FINISHED
        assert damaged.refresh().state is RunState.FAILED
        assert "start again" in damaged.error
        assert {one.id for one in list_runs()} == {run.id, damaged.id}

    def test_it_can_be_cancelled(self, world, damaged):
        damaged.cancel()

        world.run()

        assert damaged.report().finished is not None
        assert "on_failure can't be called" in damaged.error
        assert trace.calls == []
