"""unique: one waiting call per key, and the key is free once the call starts."""

from __future__ import annotations

import threading

import pytest
from django.db import connections, transaction

from cloudtask import call, failpoints
from cloudtask.exceptions import EnqueueError, EnqueueUnavailable, UnsupportedValue
from cloudtask.failpoints import Crashed
from cloudtask.models import OutboxMessage, UniqueKey
from cloudtask.sending import relay, uniqueness
from tests.durability import tasks
from tests.durability.conftest import in_threads
from tests.durability.database import rolled_back
from tests.support.waiting import PATIENCE
from tests.testapp.models import Author

pytestmark = pytest.mark.django_db(databases="__all__")


def test_a_second_call_of_the_key_gets_the_receipt_of_the_first(world):
    first = tasks.single.defer("a")
    second = tasks.single.defer("a")
    other = tasks.single.defer("b")

    assert second == first
    assert other != first
    assert len(world.queue.messages) == 2


def test_a_function_makes_the_key(world):
    first = tasks.single_by_name.defer("A", note="x")

    assert tasks.single_by_name.defer("a", note="y") == first
    assert tasks.single_by_name.defer("b") != first


def test_a_key_that_cant_travel_is_refused_by_task_and_place():
    task = tasks.single.using(unique=lambda name: {"lock": threading.Lock()})
    with pytest.raises(
        UnsupportedValue,
        match=rf"^The unique key of {tasks.single.path}\['lock'\]: .*lock can't",
    ):
        task.defer("a")


def test_a_function_that_does_not_take_the_arguments_is_named() -> None:
    task = tasks.single.using(unique=lambda user, day: (user, day))
    with pytest.raises(TypeError) as caught:
        task.defer("x")
    text = str(caught.value)
    assert text.startswith(f"The option unique of {tasks.single.path} is ")
    assert "missing a required argument: 'day'" in text


def test_the_key_is_free_once_the_call_starts(world):
    first = tasks.single.defer("a")
    during = []
    with failpoints.at(
        "execute.before_call", lambda: during.append(tasks.single.defer("a"))
    ):
        assert world.deliver(world.queue.messages[0]) == 200

    assert during[0] != first
    assert tasks.single.defer("a") == during[0]


def test_a_redelivery_does_not_free_the_key_of_another_call(world):
    tasks.single.defer("a")
    [first] = world.queue.messages
    world.deliver(first)
    second = tasks.single.defer("a")

    world.deliver(first, retries=1)

    assert tasks.single.defer("a") == second


def test_calls_at_the_same_time_leave_one(world):
    barrier = threading.Barrier(16)

    def defer() -> str:
        barrier.wait(PATIENCE)
        return tasks.single.defer("a").id

    ids = in_threads([defer] * 16)

    assert len(set(ids)) == 1
    assert [message.id for message in world.queue.messages] == ids[:1]


def test_defers_and_starts_at_the_same_time_lose_no_call(world):
    """Whatever runs after a defer() sees what was written before it."""

    def work() -> None:
        for _ in range(8):
            tasks.single.defer("a")
            for message in world.queue.messages:
                world.deliver(message)

    in_threads([work] * 4)

    assert not UniqueKey.objects.exists()
    assert Author.objects.count() >= 8


def test_a_rollback_frees_the_key(world):
    with rolled_back():
        tasks.single.defer("a")

    assert not UniqueKey.objects.exists()
    tasks.single.defer("a")
    assert len(world.queue.messages) == 1


def test_a_rolled_back_savepoint_frees_the_key(world):
    with transaction.atomic():
        with rolled_back():
            tasks.single.defer("a")
        kept = tasks.single.defer("a")

    assert [message.id for message in world.queue.messages] == [kept.id]


def test_a_concurrent_call_waits_for_the_transaction_that_has_the_key(world):
    if connections["default"].vendor == "sqlite":
        pytest.skip("SQLite lets nobody else in at all")
    claimed, go = threading.Event(), threading.Event()

    def first() -> str:
        with rolled_back():
            tasks.single.defer("a")
            claimed.set()
            assert go.wait(PATIENCE)
        return ""

    def second() -> str:
        assert claimed.wait(PATIENCE)
        threading.Timer(0.2, go.set).start()
        return tasks.single.defer("a").id

    _, kept = in_threads([first, second])

    assert [message.id for message in world.queue.messages] == [kept]


def test_a_start_waits_for_a_transaction_that_relies_on_the_call(world):
    if connections["default"].vendor == "sqlite":
        pytest.skip("SQLite lets nobody else in at all")
    tasks.single.defer("a")
    [message] = world.queue.messages
    relied, order = threading.Event(), []

    def rely() -> None:
        with transaction.atomic():
            tasks.single.defer("a")
            relied.set()
            threading.Event().wait(0.3)
            order.append("committed")

    def start() -> None:
        assert relied.wait(PATIENCE)
        with failpoints.at("execute.before_call", lambda: order.append("started")):
            world.deliver(message)

    in_threads([rely, start])

    assert order == ["committed", "started"]


def test_many_calls_leave_one_of_each_key(world):
    receipts = tasks.single.defer_many([call("a"), call("b"), call("a")])

    assert receipts[0] == receipts[2] != receipts[1]
    assert len(world.queue.messages) == 2


def test_many_calls_in_other_orders_do_not_block_one_another(world):
    forth = [call(str(n)) for n in range(20)]

    def defer(calls: list) -> list:
        return [receipt.id for receipt in tasks.single.defer_many(calls)]

    one, two = in_threads([lambda: defer(forth), lambda: defer(forth[::-1])])

    assert one == two[::-1]
    assert len(world.queue.messages) == 20


def test_a_crash_between_key_and_commit_leaves_neither(world):
    with failpoints.at("unique.claimed", failpoints.crash), pytest.raises(Crashed):
        tasks.single.defer("a")

    assert not UniqueKey.objects.exists()
    assert not OutboxMessage.objects.exists()


def test_a_crash_between_commit_and_send_is_made_good_by_a_relay(world):
    with failpoints.at("outbox.committed", failpoints.crash), pytest.raises(Crashed):
        tasks.single.defer("a")
    assert world.queue.messages == []
    key = UniqueKey.objects.get()
    assert tasks.single.defer("a").id == key.message

    with world.later(60):
        assert relay.relay().sent == 1


def test_a_key_whose_call_never_started_is_free_after_a_day(world):
    first = tasks.single.defer("a")
    day = uniqueness.PATIENCE.total_seconds()
    with world.later(day - 60):
        assert tasks.single.defer("a") == first
    with world.later(day + 60):
        second = tasks.single.defer("a")
        assert second != first
        assert tasks.single.defer("a") == second


def test_an_eta_is_waited_for_before_the_key_is_given_up(world):
    first = tasks.single.using(countdown=20 * 24 * 3600).defer("a")

    with world.later(20 * 24 * 3600):
        assert tasks.single.defer("a") == first


def test_keys_that_expired_are_pruned(world):
    tasks.single.defer("a")
    assert uniqueness.prune("default") == 0

    with world.later(2 * 24 * 3600):
        assert uniqueness.prune("default") == 1


@pytest.mark.parametrize("column", ["message", "name", "queue", "seal"])
def test_a_receipt_that_someone_wrote_to_a_key_is_not_returned(world, column):
    first, other = tasks.single.defer("a"), tasks.single.defer("b")
    theirs = UniqueKey.objects.get(message=other.id)
    value = "elsewhere" if column == "queue" else getattr(theirs, column)
    UniqueKey.objects.filter(message=first.id).update(**{column: value})

    again = tasks.single.defer("a")

    assert again.id not in (first.id, other.id)
    assert again.queue == first.queue
    assert tasks.single.defer("a") == again


def test_sent_at_once_the_key_outlives_a_rollback(world):
    if connections["default"].vendor == "sqlite":
        pytest.skip("SQLite refuses: see the next test")
    chosen = tasks.single.using(transactional=False)
    with rolled_back():
        first = chosen.defer("a")
        assert len(world.queue.messages) == 1

    assert chosen.defer("a") == first


def test_where_the_key_can_not_outlive_the_block_defer_says_so(world):
    if connections["default"].vendor != "sqlite":
        pytest.skip("other databases let one write beside an open transaction")
    with transaction.atomic(), pytest.raises(EnqueueError, match="one writer"):
        tasks.single.using(transactional=False).defer("a")

    assert world.queue.messages == []


def test_sent_at_once_it_does_not_wait_for_its_own_transaction(world):
    with transaction.atomic():
        first = tasks.single.defer("a")
        assert tasks.single.using(transactional=False).defer("a") == first


def test_small_leaves_it_to_the_service_which_remembers_for_longer(
    world, django_assert_num_queries
):
    with django_assert_num_queries(0):
        tasks.single_small.defer("a")
        tasks.single_small.defer("a")
    [message] = world.queue.messages

    assert world.deliver(message) == 200
    tasks.single_small.defer("a")

    assert len(world.queue.messages) == 1  # still the name of the one that ran
    assert Author.objects.count() == 1


def test_small_leaves_with_the_commit(world):
    with transaction.atomic():
        tasks.single_small.defer("a")
        tasks.single_small.defer("a")
        assert world.queue.messages == []

    assert len(world.queue.messages) == 1


def test_a_transaction_that_can_not_see_who_has_the_key_says_so(world):
    if connections["default"].vendor == "sqlite":
        pytest.skip("SQLite has no older snapshots here")
    with repeatable_read(), transaction.atomic():
        list(UniqueKey.objects.all())
        in_threads([lambda: tasks.single.defer("a")])
        try:
            assert tasks.single.defer("a").id
        except EnqueueUnavailable:
            transaction.set_rollback(True)

    assert len(world.queue.messages) == 1


class repeatable_read:
    """Inside the block transactions keep the snapshot that they began with."""

    def __enter__(self) -> None:
        self.set("REPEATABLE READ")

    def __exit__(self, *exc: object) -> None:
        self.set("READ COMMITTED")

    def set(self, level: str) -> None:
        scope = (
            "SESSION"
            if connections["default"].vendor == "mysql"
            else ("SESSION CHARACTERISTICS AS")
        )
        with connections["default"].cursor() as cursor:
            cursor.execute(f"SET {scope} TRANSACTION ISOLATION LEVEL {level}")
