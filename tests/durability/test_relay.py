"""The relay: what a dead process or an outage left in the outbox is sent."""

from __future__ import annotations

import threading
from datetime import timedelta

import pytest
from django.db import connections, transaction
from django.db.models import F
from django.test.utils import CaptureQueriesContext

from cloudtask import envelope, failpoints
from cloudtask.exceptions import EnqueueError
from cloudtask.failpoints import Crashed
from cloudtask.models import OutboxMessage
from cloudtask.sending import relay, table
from tests.durability import tasks
from tests.durability.conftest import in_threads
from tests.durability.left import keys, leave_behind, one, waiting
from tests.support.waiting import PATIENCE
from tests.testapp.models import Author

pytestmark = pytest.mark.django_db(databases="__all__")


def test_a_message_that_a_dead_process_left_is_sent(world):
    [left] = leave_behind()

    with world.later(60):
        assert relay.relay().sent == 1

    assert keys(world) == [left]
    assert waiting() == []


def test_the_process_that_made_a_row_has_a_head_start(world):
    leave_behind()

    assert relay.relay() == relay.RelayReport()


def test_a_row_that_is_not_committed_is_not_relayed(world):
    if connections["default"].vendor == "sqlite":
        pytest.skip("SQLite lets nobody write meanwhile")
    with world.later(60), transaction.atomic():
        tasks.plain.defer("a")
        [report] = in_threads([relay.relay])
        assert report == relay.RelayReport()


def test_limit_bounds_the_rows_and_the_oldest_go_first(world):
    oldest = [leave_behind()[0] for _ in range(3)]
    for age, key in enumerate(reversed(oldest)):
        OutboxMessage.objects.filter(key=key).update(
            created_at=F("created_at") - timedelta(hours=age + 1)
        )

    with world.later(60):
        assert relay.relay(limit=2).sent == 2

    assert world.queue.received == oldest[:2]


def test_limit_bounds_the_rows_of_several_batches(world):
    leave_behind(relay.BATCH + 30)

    with world.later(60):
        assert relay.relay(limit=relay.BATCH + 10).sent == relay.BATCH + 10

    assert len(waiting()) == 20


def test_a_row_that_was_released_is_due_at_once(world):
    [left] = leave_behind()
    OutboxMessage.objects.update(state=OutboxMessage.State.PARKED)

    assert relay.release("default") == 1

    assert relay.relay().sent == 1
    assert keys(world) == [left]


def test_without_a_limit_all_that_is_due_is_sent(world, monkeypatch):
    monkeypatch.setattr(relay, "BATCH", 5)
    leave_behind(1_003)

    with world.later(60):
        assert relay.relay_all(["default"]).sent == 1_003

    assert waiting() == []


def test_no_batch_is_begun_when_the_time_is_over(world):
    leave_behind(3)

    with world.later(60):
        assert relay.relay(seconds=0.0) == relay.RelayReport()

    assert len(waiting()) == 3


def test_a_relay_that_dies_gives_its_rows_back(world):
    leave_behind(2)
    with world.later(60):
        with (
            pytest.raises(Crashed),
            failpoints.at("relay.claimed", failpoints.crash),
        ):
            relay.relay()
        assert relay.relay().sent == 0

        with world.later(relay.LEASE.total_seconds() + 1):
            assert relay.relay().sent == 2


def test_what_was_sent_by_a_relay_that_died_is_sent_again_under_its_name(world):
    [left] = leave_behind()
    with world.later(60):
        with (
            pytest.raises(Crashed),
            failpoints.at("relay.after_send", failpoints.crash),
        ):
            relay.relay()
        with world.later(relay.LEASE.total_seconds() + 1):
            assert relay.relay().sent == 1

    assert world.queue.received == [left, left]
    assert keys(world) == [left]


def test_each_failure_puts_a_row_off_for_longer(world):
    [left] = leave_behind()
    world.queue.is_down = True
    with world.later(60):
        assert relay.relay().postponed == 1
    assert (one(left).attempts, "down" in one(left).error) == (1, True)

    OutboxMessage.objects.update(attempts=5)
    with world.later(120):
        relay.relay()
        assert relay.relay() == relay.RelayReport()
    with world.later(120 + 20):
        assert relay.relay() == relay.RelayReport()
    with world.later(120 + 2**5 * 1.25 + 1):
        assert relay.relay().postponed == 1


def test_the_pause_of_a_row_has_a_bound(world):
    [left] = leave_behind()
    world.queue.is_down = True
    OutboxMessage.objects.update(attempts=1000)
    with world.later(60):
        relay.relay()
    world.queue.is_down = False

    with world.later(60 + relay.LONGEST_PAUSE * 1.25 + 1):
        assert relay.relay().sent == 1
    assert keys(world) == [left]


def test_an_outage_parks_nothing_however_long(world):
    leave_behind()
    world.queue.is_down = True
    OutboxMessage.objects.update(attempts=10_000)

    with world.later(60):
        assert relay.relay() == relay.RelayReport(postponed=1)


def test_an_outage_ends_the_relay_after_one_batch(world):
    leave_behind(relay.BATCH + 50)
    world.queue.is_down = True

    with world.later(60):
        assert relay.relay().postponed == relay.BATCH


def test_a_missing_queue_is_tried_again_and_then_parked(world):
    [left] = leave_behind(queue="new")
    world.queue.missing = {"new"}
    with world.later(60):
        assert relay.relay() == relay.RelayReport(postponed=1)

    OutboxMessage.objects.update(attempts=relay.PARK_AFTER - 1)
    with world.later(120):
        assert relay.relay() == relay.RelayReport(parked=1)

    [row] = relay.parked("default")
    assert (row.key, "new" in row.error) == (left, True)


def test_what_is_parked_keeps_nobody_back(world):
    [left] = leave_behind()
    world.queue.refusals[left] = EnqueueError("INVALID_ARGUMENT")
    OutboxMessage.objects.update(attempts=relay.PARK_AFTER)
    others = leave_behind(3)
    with world.later(60):
        assert relay.relay() == relay.RelayReport(sent=3, parked=1)
        assert relay.relay() == relay.RelayReport()

    assert keys(world) == sorted(others)


def test_a_row_that_breaks_the_transport_keeps_nobody_back(world):
    broken, *others = leave_behind(5)
    world.queue.refusals[broken] = RuntimeError("a defect")

    with world.later(60):
        assert relay.relay() == relay.RelayReport(sent=4, postponed=1)

    assert keys(world) == sorted(others)
    assert "a defect" in one(broken).error


def test_a_row_that_can_not_be_read_is_parked_alone(world):
    broken, fine = leave_behind(2)
    OutboxMessage.objects.filter(key=broken).update(envelope=b"ct and nothing else")

    with world.later(60):
        assert relay.relay() == relay.RelayReport(sent=1, parked=1)

    assert keys(world) == [fine]


def test_a_name_that_another_task_has_is_parked(world):
    tasks.plain.using(name="taken").defer("first")
    with transaction.atomic():
        late = tasks.plain.using(name="taken").defer("second")
    with world.later(60):
        assert relay.relay() == relay.RelayReport(parked=1)

    assert relay.parked("default")[0].key == late.id


def test_a_name_that_our_own_lost_send_has_is_recognised(world):
    world.queue.loses_answers = True
    with transaction.atomic():
        tasks.plain.using(name="mine").defer("a")
    assert len(waiting()) == 1
    world.queue.loses_answers = False

    with world.later(60):
        assert relay.relay() == relay.RelayReport(sent=1)


def test_a_released_row_is_tried_again(world):
    [left] = leave_behind(queue="new")
    world.queue.missing = {"new"}
    OutboxMessage.objects.update(attempts=relay.PARK_AFTER)
    with world.later(60):
        relay.relay()
        world.queue.missing = set()
        assert relay.relay() == relay.RelayReport()

        assert relay.release("default", ["another"]) == 0
        assert relay.release("default", [left]) == 1
        assert relay.relay().sent == 1


def test_a_row_that_was_parked_for_weeks_can_still_be_delivered(world):
    leave_behind()
    with world.later(100 * 24 * 3600):
        assert relay.relay().sent == 1
        assert world.deliver_all() == [200]


def test_a_delivery_removes_a_row_that_is_still_there(world):
    with failpoints.at("outbox.sent", failpoints.crash), pytest.raises(Crashed):
        tasks.plain.using(transactional=True).defer("a")
    assert len(waiting()) == 1

    assert world.deliver_all() == [200]

    assert waiting() == []


def test_two_relays_and_four_threads_lose_nothing_and_double_little(world):
    everything = leave_behind(300)

    def relay_all() -> int:
        return relay.relay(seconds=60.0).sent

    def defer_more(thread: int) -> list[str]:
        receipts = []
        for n in range(10):
            with transaction.atomic():
                receipts.append(tasks.plain.defer(f"{thread} {n}").id)
        return receipts

    with world.later(60):
        first, second, *more = in_threads(
            [relay_all, relay_all, *[lambda t=t: defer_more(t) for t in range(4)]]
        )
        relay.relay()

    expected = sorted(everything + [key for made in more for key in made])
    assert keys(world) == expected
    assert first + second >= 300 - relay.BATCH
    assert waiting() == []


def test_relays_at_the_same_time_claim_different_rows(world):
    leave_behind(60)
    barrier = threading.Barrier(2)
    claimed: list[set[str]] = []
    claim = relay._claim

    def claim_together() -> None:
        barrier.wait(PATIENCE)
        claimed.append({row.key for row in claim("default", 30)})

    with world.later(60):
        in_threads([claim_together, claim_together])

    assert claimed[0].isdisjoint(claimed[1])


def test_every_database_is_relayed_even_if_one_fails(world):
    leave_behind(database="other")
    with connections["default"].schema_editor() as editor:
        editor.alter_db_table(OutboxMessage, "cloudtask_outboxmessage", "elsewhere")
    try:
        with world.later(60):
            assert relay.relay_all().sent == 1
            leave_behind(database="other")
            with (
                world.later(60),
                pytest.raises(Exception, match="cloudtask_outboxmessage"),
            ):
                relay.relay_all(["default", "other"])
    finally:
        with connections["default"].schema_editor() as editor:
            editor.alter_db_table(OutboxMessage, "elsewhere", "cloudtask_outboxmessage")

    assert waiting("other") == []


def test_enqueues_survive_an_outage(world):
    world.queue.is_down = True
    for n in range(150):
        with transaction.atomic():
            tasks.plain.defer(str(n))
    with world.later(60):
        relay.relay()
    assert len(waiting()) == 150
    world.queue.is_down = False

    with world.later(3600):
        assert relay.relay().sent == 150
        assert set(world.deliver_all()) == {200}

    assert Author.objects.count() == 150


def test_a_message_knows_the_rows_key(world):
    [left] = leave_behind()

    row = one(left)
    place = relay.place_of(row.key, row.task, row.queue)
    message = envelope.unseal_resting(bytes(row.envelope), place=place)

    assert (message.key, message.outboxed) == (left, True)


@pytest.mark.parametrize("column", ["task", "queue"])
def test_a_row_that_seems_to_be_another_one_is_parked(world, column):
    first, second = leave_behind(2)
    OutboxMessage.objects.filter(key=first).update(**{column: "harmless"})

    with world.later(60):
        report = relay.relay()

    assert (report.sent, report.parked) == (1, 1)
    assert keys(world) == [second]


@pytest.mark.parametrize("table", [None, "failed"])
def test_an_envelope_that_did_not_rest_in_the_outbox_is_parked(world, table):
    [key] = leave_behind()
    row = one(key)
    place = relay.place_of(row.key, row.task, row.queue)
    message = envelope.unseal_resting(bytes(row.envelope), place=place)
    elsewhere = (table, *place[1:], message.name) if table else None
    sealed = envelope.seal(message, place=elsewhere)
    OutboxMessage.objects.filter(key=key).update(envelope=sealed)

    with world.later(60):
        assert relay.relay().parked == 1

    assert keys(world) == []


def test_an_envelope_of_another_row_is_parked_and_keeps_nothing_back(world):
    first, second, third = leave_behind(3)
    OutboxMessage.objects.filter(key=first).update(envelope=one(second).envelope)

    with world.later(60):
        report = relay.relay()

    assert (report.sent, report.parked) == (2, 1)
    assert keys(world) == sorted([second, third])
    assert "moved" in one(first).error


# What a commit waits for


@pytest.fixture
def postgresql(world: object) -> None:
    """Only there can a statement commit without waiting for the disk."""
    if connections["default"].vendor != "postgresql":
        pytest.skip("for PostgreSQL only")
    with connections["default"].cursor() as cursor:
        cursor.execute("SET synchronous_commit TO ON")


def waits_for_the_disk() -> bool:
    with connections["default"].cursor() as cursor:
        cursor.execute("SHOW synchronous_commit")
        return bool(cursor.fetchone()[0] == "on")


def test_the_deletion_of_a_sent_row_does_not_wait_for_the_disk(postgresql: None):
    leave_behind()
    [row] = waiting()

    with CaptureQueriesContext(connections["default"]) as made:
        table.forget_rows("default", [row.key])

    [deletion] = made.captured_queries
    assert deletion["sql"].startswith("SET LOCAL synchronous_commit TO OFF; DELETE")
    assert waiting() == []
    assert waits_for_the_disk()  # whatever follows on this connection


def test_a_deletion_in_a_transaction_leaves_its_commit_as_it_is(postgresql: None):
    leave_behind()
    [row] = waiting()

    with transaction.atomic():
        table.forget_rows("default", [row.key])
        assert waits_for_the_disk()

    assert waiting() == []
