"""What a commit sends: all that its transaction left, and nothing that was undone."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from django.core.signals import request_finished
from django.db import connection, transaction
from django.test.utils import CaptureQueriesContext

from cloudtask import call, failpoints
from cloudtask.failpoints import Crashed
from cloudtask.models import OutboxMessage, Payload, UniqueKey
from cloudtask.sending import on_commit, relay
from tests.durability import tasks
from tests.durability.database import rolled_back

pytestmark = pytest.mark.django_db(databases="__all__")


def names(world) -> list[str]:
    return sorted(message.name for message in world.queue.messages)


def rows() -> int:
    return OutboxMessage.objects.count()


# Its name from Django 6.1 on, which warns of the old one.
make_savepoint = getattr(transaction, "savepoint_create", transaction.savepoint)


@contextmanager
def undone_by_hand() -> Iterator[None]:
    """A savepoint that is rolled back by hand: Django keeps the on-commit entries."""
    savepoint = make_savepoint()
    yield
    transaction.savepoint_rollback(savepoint)


def behind_a_hook_that_raises(work: Callable[[], Any]) -> None:
    """Do `work` in a transaction with a hook of somebody else, which raises first."""

    @transaction.atomic
    def all_of_it() -> None:
        transaction.on_commit(lambda: 1 / 0)
        work()

    with pytest.raises(ZeroDivisionError):
        all_of_it()


@pytest.fixture
def by_hand() -> Iterator[None]:
    transaction.set_autocommit(False)
    try:
        yield
    finally:
        transaction.rollback()
        transaction.set_autocommit(True)


LARGE = random.Random(1).randbytes(1_500_000)


# Savepoints


@pytest.mark.parametrize("data", [b"", LARGE], ids=["inline", "stored"])
def test_what_a_savepoint_by_hand_undoes_is_not_sent(world, data):
    with transaction.atomic():
        before = tasks.plain.defer("before", data)
        with undone_by_hand():
            tasks.plain.defer("undone", data)
        after = tasks.plain.defer("after", data)

    assert names(world) == sorted([before.name, after.name])
    assert rows() == 0
    assert Payload.objects.count() == (2 if data else 0)


def test_what_is_undone_alone_is_not_sent(world):
    with transaction.atomic(), undone_by_hand():
        tasks.plain.defer("undone")

    assert names(world) == []


def test_a_savepoint_by_hand_inside_a_block_is_undone_with_it(world):
    with transaction.atomic():
        with transaction.atomic():
            with undone_by_hand():
                tasks.plain.defer("undone")
            inner = tasks.plain.defer("inner")
        outer = tasks.plain.defer("outer")

    assert names(world) == sorted([inner.name, outer.name])


def test_an_inner_savepoint_that_is_released_is_undone_with_the_outer_one(world):
    with transaction.atomic():
        kept = tasks.plain.defer("kept")
        with undone_by_hand():
            inner = make_savepoint()
            tasks.plain.defer("inner")
            transaction.savepoint_commit(inner)
        with rolled_back(), transaction.atomic():
            tasks.plain.defer("inner block")

    assert names(world) == [kept.name]


def test_a_unique_call_that_was_undone_does_not_hold_its_key(world):
    with transaction.atomic():
        with undone_by_hand():
            tasks.single.defer("a")
        sent = tasks.single.defer("a")

    assert names(world) == [sent.name]
    assert UniqueKey.objects.get().message == sent.id


def test_many_calls_of_which_some_were_undone(world):
    with transaction.atomic():
        for n in range(20):
            with transaction.atomic():
                kept = tasks.plain.defer(f"kept {n}")
            with undone_by_hand():
                tasks.plain.defer_many([call(f"undone {n}"), call(f"undone too {n}")])
        assert kept.id

    assert len(names(world)) == 20
    assert rows() == 0


def test_a_small_call_follows_the_savepoints_of_blocks(world):
    with transaction.atomic():
        kept = tasks.small.defer("a")
        with rolled_back():
            tasks.small.defer("b")
        also_kept = tasks.small.defer("c")

    assert names(world) == sorted([kept.name, also_kept.name])


# set_autocommit(False)


@pytest.mark.parametrize("task", [tasks.plain, tasks.small], ids=["plain", "small"])
def test_a_transaction_by_hand_that_is_rolled_back_sends_nothing(world, by_hand, task):
    task.defer("undone")
    assert names(world) == []
    transaction.rollback()
    transaction.set_autocommit(True)

    assert names(world) == []
    assert rows() == 0


@pytest.mark.parametrize("task", [tasks.plain, tasks.small], ids=["plain", "small"])
def test_a_transaction_by_hand_sends_once_autocommit_is_back(world, by_hand, task):
    sent = task.defer("a")
    assert names(world) == []
    transaction.commit()
    transaction.set_autocommit(True)

    assert names(world) == [sent.name]
    assert rows() == 0


def test_a_commit_by_hand_leaves_a_row_for_a_relay(world, by_hand):
    sent = tasks.plain.defer("a")
    transaction.commit()
    tasks.plain.defer("b")
    transaction.rollback()
    transaction.set_autocommit(True)

    with world.later(60):
        assert relay.relay().sent == 1
    assert names(world) == [sent.name]


def test_a_call_that_is_not_transactional_leaves_a_transaction_by_hand(world, by_hand):
    sent = tasks.plain.using(transactional=False).defer("a")

    assert names(world) == [sent.name]


# Hooks of others


def test_a_hook_that_raises_first_leaves_the_call_to_the_next_enqueue(world):
    behind_a_hook_that_raises(lambda: tasks.plain.defer("left"))
    assert (names(world), rows()) == ([], 1)

    with transaction.atomic():
        tasks.plain.defer("next")
    assert (len(names(world)), rows()) == (2, 0)


def test_a_hook_that_raises_first_leaves_the_call_to_the_end_of_the_request(world):
    calls = [call(str(n)) for n in range(3)]
    behind_a_hook_that_raises(lambda: tasks.plain.defer_many(calls))
    request_finished.send(sender=None)

    assert (len(names(world)), rows()) == (3, 0)


def test_what_was_rolled_back_is_not_looked_for(world, django_assert_num_queries):
    with rolled_back():
        transaction.on_commit(lambda: None)
        tasks.plain.defer("undone")
    with django_assert_num_queries(0):
        on_commit.look()

    assert names(world) == []


def test_a_hook_between_two_of_ours_that_raises_keeps_none_back(world):
    @transaction.atomic
    def work() -> None:
        sent.append(tasks.plain.defer("first").name)
        transaction.on_commit(lambda: 1 / 0)
        sent.append(tasks.plain.defer("second").name)

    sent: list[str] = []
    with pytest.raises(ZeroDivisionError):
        work()
    assert names(world) == sorted(sent)


def test_a_hook_may_enqueue_before_ours_is_called(world):
    sent = []

    def enqueue() -> None:
        with transaction.atomic():
            sent.append(tasks.plain.defer("of a hook").name)

    with transaction.atomic():
        transaction.on_commit(enqueue)
        sent.append(tasks.plain.defer("of the transaction").name)

    assert names(world) == sorted(sent)
    assert len(world.queue.received) == 2
    assert rows() == 0


def test_a_late_hook_does_not_send_again_what_a_relay_has_sent(world, monkeypatch):
    monkeypatch.setattr(on_commit, "HURRY", -1.0)

    def relay_first() -> None:
        with world.later(60):
            assert relay.relay().sent == 1

    with transaction.atomic():
        transaction.on_commit(relay_first)
        tasks.plain.defer("a")

    assert len(world.queue.received) == 1


# Crashes


@pytest.mark.parametrize("point", ["outbox.committed", "outbox.sent"])
def test_a_crash_at_the_commit_leaves_all_of_it_to_a_relay(world, point):
    @transaction.atomic
    def work() -> None:
        sent.extend(tasks.plain.defer(str(n)).name for n in range(5))

    sent: list[str] = []
    with failpoints.at(point, failpoints.crash), pytest.raises(Crashed):
        work()
    assert rows() == 5

    with world.later(60):
        assert relay.relay().sent == 5
    assert names(world) == sorted(sent)


# Statements


def statements(work: Callable[[], Any]) -> list[str]:
    """The first words of the statements that `work` and its commit make."""
    with CaptureQueriesContext(connection) as captured:
        work()
    # On PostgreSQL a deletion comes after "SET LOCAL ...; ", in the same request.
    return [query["sql"].rpartition("; ")[2].split()[0] for query in captured]


@pytest.fixture
def warm(world) -> None:
    """A connection that is open, and knows its server."""
    with transaction.atomic():
        tasks.plain.defer("warm")


def bare() -> None:
    with transaction.atomic():
        connection.cursor().execute("SELECT 1")


def test_one_call_costs_an_insert_and_a_delete(warm):
    def work() -> None:
        with transaction.atomic():
            tasks.plain.defer("a")

    frame = [word for word in statements(bare) if word != "SELECT"]
    assert [word for word in statements(work) if word not in frame] == [
        "INSERT",
        "DELETE",
    ]
    assert len(statements(work)) == len(frame) + 2


@pytest.mark.parametrize("count", [2, 20, 200])
def test_many_calls_cost_two_statements_at_the_commit(warm, count):
    def work() -> None:
        with transaction.atomic():
            for n in range(count):
                tasks.plain.defer(str(n))

    frame = [word for word in statements(bare) if word != "SELECT"]
    made = Counter(statements(work)) - Counter(frame)
    assert made == {"INSERT": count, "SELECT": 1, "DELETE": 1}


@pytest.mark.parametrize("count", [1, 200])
def test_all_calls_of_a_commit_leave_together(warm, world, count):
    with transaction.atomic():
        for n in range(count):
            tasks.plain.defer(str(n))
            tasks.small.defer(str(n))

    # A single message is sent by itself.
    assert world.queue.batches == ([count, count] if count > 1 else [])
