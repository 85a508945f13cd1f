"""defer() and transactions: never early, never lost, nothing left by a rollback."""

from __future__ import annotations

import asyncio
import random

import pytest
from django.db import connections, transaction

from cloudtask import call
from cloudtask.exceptions import EnqueueUnavailable
from cloudtask.models import OutboxMessage, Payload
from tests.durability import tasks
from tests.durability.conftest import World
from tests.durability.database import rolled_back
from tests.testapp.models import Author

pytestmark = pytest.mark.django_db(databases="__all__")


def names(world: World) -> list[str]:
    return sorted(message.name for message in world.queue.messages)


def rows(alias: str = "default") -> list[str]:
    return list(OutboxMessage.objects.using(alias).values_list("key", flat=True))


def test_a_task_leaves_with_the_commit_and_not_before(world):
    with transaction.atomic():
        enqueued = tasks.plain.defer("a")
        assert names(world) == []
        assert rows() == [enqueued.id]

    assert names(world) == [enqueued.name]
    assert rows() == []


def test_a_rolled_back_transaction_leaves_nothing(world):
    with rolled_back():
        tasks.plain.defer("a", "x" * 2_000_000)
        tasks.small.defer("a")
        tasks.single.defer("a")

    assert names(world) == rows() == []
    assert not Payload.objects.exists()


def test_a_rolled_back_savepoint_takes_its_tasks_alone(world):
    with transaction.atomic():
        kept = tasks.plain.defer("a")
        with rolled_back():
            tasks.plain.defer("b")
            tasks.small.defer("b")
        with transaction.atomic():
            also_kept = tasks.small.defer("c")
        assert names(world) == []

    assert names(world) == sorted([kept.name, also_kept.name])


def test_an_inner_commit_waits_for_the_outer_one(world):
    with transaction.atomic():
        with transaction.atomic(durable=False):
            tasks.plain.defer("a")
        assert names(world) == []

    assert len(names(world)) == 1


def test_a_durable_block_can_defer(world):
    with transaction.atomic(durable=True):
        enqueued = tasks.plain.defer("a")

    assert names(world) == [enqueued.name]


def test_the_alias_of_the_task_decides_and_no_other(world):
    with transaction.atomic(using="other"):
        tasks.plain.defer("of default")
        assert len(names(world)) == 1
        enqueued = tasks.elsewhere.defer("of other")
        assert len(names(world)) == 1
        assert rows("other") == [enqueued.id]

    assert len(names(world)) == 2
    assert rows("other") == []


def test_an_alias_can_be_chosen_for_a_call(world):
    with transaction.atomic(using="other"):
        tasks.plain.using(database="other").defer("a")
        assert names(world) == []

    assert len(names(world)) == 1


def test_two_open_transactions_each_send_their_own(world):
    with transaction.atomic():
        of_default = tasks.plain.defer("a")
        with rolled_back("other"):
            tasks.elsewhere.defer("b")

    assert names(world) == [of_default.name]


@pytest.mark.parametrize("task", [tasks.plain, tasks.small], ids=["plain", "small"])
@pytest.mark.parametrize("transactional", [True, False, None])
@pytest.mark.parametrize("in_block", [True, False], ids=["in_block", "outside"])
def test_transactional_decides_whether_a_block_is_waited_for(
    world, task, transactional, in_block
):
    chosen = task.using(transactional=transactional)
    if not in_block:
        enqueued = chosen.defer("a")
        assert names(world) == [enqueued.name]
        return
    with transaction.atomic():
        enqueued = chosen.defer("a")
        assert bool(names(world)) is (transactional is False)

    assert names(world) == [enqueued.name]


@pytest.mark.parametrize("task", [tasks.plain, tasks.small], ids=["plain", "small"])
@pytest.mark.parametrize("transactional", [True, False, None])
def test_transactional_decides_what_a_rollback_undoes(world, task, transactional):
    with rolled_back():
        task.using(transactional=transactional).defer("a")

    assert bool(names(world)) is (transactional is False)
    assert rows() == []


def test_small_has_no_row(world, django_assert_num_queries):
    with transaction.atomic(), django_assert_num_queries(0):
        tasks.small.defer("a")
    assert len(names(world)) == 1


def test_transactional_outside_a_block_has_a_row_that_outlives_an_outage(world):
    world.queue.is_down = True
    enqueued = tasks.plain.using(transactional=True).defer("a")

    assert rows() == [enqueued.id]


def test_many_calls_leave_with_the_commit(world):
    with transaction.atomic():
        receipts = tasks.plain.defer_many([call(str(n)) for n in range(250)])
        assert names(world) == []
        assert len(rows()) == 250

    assert names(world) == sorted(receipt.name for receipt in receipts)
    assert rows() == []


def test_many_large_rows_fit_the_packets_of_the_server(world):
    with transaction.atomic():
        tasks.plain.defer_many([call(str(n), _noise(n)) for n in range(24)])

    assert len(names(world)) == 24


def _noise(seed: int) -> bytes:
    return random.Random(seed).randbytes(500_000)


def test_many_small_calls_leave_with_the_commit_without_rows(world):
    with transaction.atomic():
        tasks.small.defer_many([call(str(n)) for n in range(10)])
        assert names(world) == rows() == []

    assert len(names(world)) == 10


def test_an_asynchronous_caller_can_defer(world):
    enqueued = asyncio.run(tasks.plain.adefer("a"))

    assert names(world) == [enqueued.name]


def test_a_failing_transport_leaves_the_row_and_breaks_no_other_callback(world):
    world.queue.is_down = True
    called = []
    with transaction.atomic():
        enqueued = tasks.plain.defer("a")
        transaction.on_commit(lambda: called.append(True))

    assert called == [True]
    assert rows() == [enqueued.id]


def test_a_transport_that_breaks_leaves_the_row_and_breaks_no_other_callback(world):
    called = []
    with transaction.atomic():
        enqueued = tasks.plain.defer("a")
        fine = tasks.plain.defer("b")
        world.queue.refusals[enqueued.id] = RuntimeError("a defect")
        transaction.on_commit(lambda: called.append(True))

    assert called == [True]
    assert rows() == [enqueued.id]
    assert names(world) == [fine.name]


def test_an_outage_does_not_hold_up_commit_after_commit(world):
    world.queue.is_down = True
    for n in range(20):
        with transaction.atomic():
            tasks.plain.defer(str(n))

    assert world.queue.tries == 1
    assert len(rows()) == 20


def test_a_small_task_that_can_not_be_sent_raises_after_the_commit(world):
    world.queue.is_down = True

    @transaction.atomic
    def work() -> None:
        Author.objects.create(name="a")
        tasks.small.defer("a")

    with pytest.raises(EnqueueUnavailable, match="down"):
        work()

    assert Author.objects.count() == 1


def test_a_request_that_is_atomic_sends_when_it_is_answered(world, settings, client):
    settings.ROOT_URLCONF = "tests.durability.urls"
    connections.settings["default"]["ATOMIC_REQUESTS"] = True
    try:
        assert client.get("/defer/").status_code == 200
        assert len(names(world)) == 1
        client.raise_request_exception = False
        assert client.get("/defer/?then=raise").status_code == 500
        assert len(names(world)) == 1
        assert world.deliver_all() == [200]
    finally:
        connections.settings["default"]["ATOMIC_REQUESTS"] = False

    assert Author.objects.count() == 1
