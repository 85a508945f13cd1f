"""atomic=True: the effects of a call happen once, however often it is delivered."""

from __future__ import annotations

from datetime import timedelta
from io import StringIO

import pytest
from django.core.management import call_command
from django.db import connections, transaction
from django.db.models.functions import Now

from cloudtask import failpoints
from cloudtask.delivering import executions
from cloudtask.failpoints import Crashed
from cloudtask.management.commands import cloudtask_prune
from cloudtask.models import Execution, FailedTask
from tests.durability import tasks
from tests.testapp.models import Author

pytestmark = pytest.mark.django_db(databases="__all__")


def authors(alias: str = "default") -> int:
    return Author.objects.using(alias).count()


def settle(world, message) -> list[int]:
    """32 deliveries at once, and more of those that were not acknowledged, as Cloud
    Tasks makes them; the answers."""
    statuses = world.deliver_at_once([message] * 32)
    assert set(statuses) <= {200, 500}
    assert 200 in statuses
    return [world.deliver(message, retries=1) for s in statuses if s != 200]


@pytest.mark.parametrize(
    ("task", "alias"),
    [
        (tasks.once, "default"),
        (tasks.once_elsewhere, "other"),
        (tasks.once_awaited, "default"),
    ],
    ids=["default", "other", "async"],
)
def test_32_deliveries_at_once_have_one_effect(world, task, alias):
    task.defer("a")
    [message] = world.queue.messages

    again = settle(world, message)

    assert set(again) <= {200}
    assert authors(alias) == 1
    assert Execution.objects.using(alias).count() == 1


def test_different_calls_do_not_wait_for_one_another(world):
    for n in range(16):
        tasks.once.defer(str(n))

    statuses = world.deliver_at_once(world.queue.messages * 2)

    assert set(statuses) == {200}
    assert authors() == 16


def test_a_duplicate_is_acknowledged_and_told(world, caplog):
    tasks.once.defer("a")
    [message] = world.queue.messages
    assert world.deliver(message) == 200

    assert world.deliver(message, retries=1) == 200

    assert authors() == 1
    assert "duplicate" in caplog.text


def test_what_raises_leaves_neither_effect_nor_record(world):
    tasks.once_then_raise.defer("a")
    [message] = world.queue.messages

    assert world.deliver(message) == 500

    assert authors() == 0
    assert not Execution.objects.exists()


def test_what_it_enqueues_leaves_with_its_effects(world):
    with failpoints.at("execute.before_commit", failpoints.crash):
        tasks.once_and_defer.defer("a")
        [message] = world.queue.messages
        with pytest.raises(Crashed):
            world.deliver(message)
    assert len(world.queue.messages) == 1

    assert world.deliver(message, retries=1) == 200
    assert world.deliver(message, retries=2) == 200

    assert len(world.queue.messages) == 2


def test_a_crash_before_the_commit_leaves_nothing_and_after_it_one_effect(world):
    tasks.once.defer("a")
    [message] = world.queue.messages
    crashing = pytest.raises(Crashed)
    with failpoints.at("execute.before_commit", failpoints.crash), crashing:
        world.deliver(message)
    assert authors() == 0
    with failpoints.at("execute.after_call", failpoints.crash), crashing:
        world.deliver(message)
    assert authors() == 1

    assert world.deliver(message) == 200

    assert authors() == 1


def test_a_hook_that_raises_after_the_commit_does_not_undo_it(world, caplog):
    tasks.once_with_a_broken_hook.defer("a")
    [message] = world.queue.messages

    assert world.deliver(message) == 200

    assert authors() == 1
    assert not FailedTask.objects.exists()
    assert "A hook on the commit of task" in caplog.text
    assert [one.task for one in world.queue.messages[1:]] == [tasks.plain.path]


def test_a_task_that_is_not_atomic_runs_again_when_it_is_redelivered(world):
    tasks.plain.defer("a")
    [message] = world.queue.messages

    assert [world.deliver(message), world.deliver(message)] == [200, 200]

    assert authors() == 2


def test_records_are_pruned_when_no_message_can_repeat_them(world):
    tasks.once.defer("a")
    world.deliver_all()
    month = timedelta(days=32)
    assert executions.prune("default", month) == 0

    with world.later(month.total_seconds() + 60):
        assert executions.prune("default", month) == 1

    assert not Execution.objects.exists()


def test_an_atomic_task_does_not_join_a_transaction_of_the_request(world):
    connections.settings["default"]["ATOMIC_REQUESTS"] = True
    seen = []
    try:
        tasks.once.defer("a")
        [message] = world.queue.messages
        with failpoints.at(
            "execute.before_settle",
            lambda: seen.append(transaction.get_connection().in_atomic_block),
        ):
            assert world.deliver(message) == 200
    finally:
        connections.settings["default"]["ATOMIC_REQUESTS"] = False

    assert seen == [False]


def left_from_long_ago(count: int) -> None:
    Execution.objects.bulk_create(
        Execution(id=str(n), task="old") for n in range(count)
    )
    Execution.objects.update(ran_at=Now() - timedelta(days=100))


def pruned(**options) -> str:
    said = StringIO()
    call_command("cloudtask_prune", stdout=said, **options)
    return said.getvalue()


def test_pruning_works_off_all_batches(monkeypatch):
    monkeypatch.setattr(cloudtask_prune, "BATCH", 2)
    left_from_long_ago(7)

    assert "7 execution records" in pruned()

    assert not Execution.objects.exists()


@pytest.mark.parametrize(("options", "left"), [({"seconds": 0}, 5), ({"limit": 3}, 4)])
def test_pruning_ends_when_its_time_or_its_limit_is_reached(monkeypatch, options, left):
    monkeypatch.setattr(cloudtask_prune, "BATCH", 2)
    left_from_long_ago(7)

    text = pruned(**options)

    assert Execution.objects.count() == left
    assert ("The time is over" in text) == ("seconds" in options)
