"""Payloads that do not fit a task: they rest in the store until the task is done."""

from __future__ import annotations

import logging
import random
from datetime import timedelta

import pytest
from django.core.management import call_command
from django.db import connections, transaction

from cloudtask import call, conf, failpoints
from cloudtask.exceptions import (
    EnqueueError,
    EnqueueUnavailable,
    PayloadTooLarge,
    QueueNotFound,
)
from cloudtask.models import FailedTask, OutboxMessage, Payload, PayloadChunk
from cloudtask.stores import store
from tests.durability import tasks
from tests.durability.conftest import in_threads
from tests.durability.database import rolled_back
from tests.testapp.models import Author

pytestmark = pytest.mark.django_db(databases="__all__")

MEBIBYTE = 1024 * 1024


def noise(size: int, seed: int = 1) -> bytes:
    """Bytes that no compression makes fewer."""
    return random.Random(seed).randbytes(size)


LARGE = noise(1_000_000)
NO_BLOCK = {"transactional": False}


def test_a_call_that_fits_touches_no_store(world, django_assert_num_queries):
    with django_assert_num_queries(0):
        tasks.plain.defer("a", noise(600_000))

    [message] = world.queue.messages
    assert message.stored is None


def test_a_call_that_fits_once_compressed_touches_no_store(
    world, django_assert_num_queries
):
    with django_assert_num_queries(0):
        tasks.plain.defer("a", "la" * 2 * MEBIBYTE)

    assert world.deliver_all() == [200]


def test_a_large_call_is_written_once(world, django_capture_queries):
    with django_capture_queries() as queries:
        tasks.plain.defer("a", LARGE)

    table = PayloadChunk._meta.db_table
    chunks = [q for q in queries if q["sql"].startswith("INSERT") and table in q["sql"]]
    assert len(chunks) == PayloadChunk.objects.count()
    assert Payload.objects.count() == 1
    assert len(queries) <= len(chunks) + 4  # and the payload, in one transaction


@pytest.fixture
def django_capture_queries():
    from django.test.utils import CaptureQueriesContext

    return lambda: CaptureQueriesContext(connections["default"])


def test_a_setting_says_what_fits(world, configure):
    configure(MAX_TASK_SIZE=20_000)
    tasks.plain.defer("a", noise(5_000))
    assert not Payload.objects.exists()

    tasks.plain.defer("b", noise(30_000))

    assert Payload.objects.count() == 1


def test_headers_leave_less_room(world):
    headers = {"X-Ballast": "x" * 75_000}
    size = 940_000
    tasks.plain.defer("a", noise(size))
    assert not Payload.objects.exists()

    tasks.plain.using(headers=headers).defer("b", noise(size))

    assert Payload.objects.count() == 1


def test_everything_else_travels_with_the_reference(world):
    tasks.plain.using(
        name="mine",
        queue="slow",
        countdown=60,
        headers={"X-Colour": "red"},
        service="backend",
        version="v1",
        instance="2",
        timeout=60,
        url="/elsewhere/",
    ).defer("a", LARGE)

    [message] = world.queue.messages
    assert message.stored == message.id
    assert message.payload == b""
    assert (message.name, message.queue, message.named) == ("mine", "slow", True)
    assert message.eta == pytest.approx(message.created + 60)
    options = message.options
    assert options.headers == {"X-Colour": "red"}
    assert (options.service, options.version, options.instance) == (
        "backend",
        "v1",
        "2",
    )
    assert (options.url, options.timeout) == ("/elsewhere/", timedelta(seconds=60))


def test_a_payload_is_removed_after_success_alone(world):
    tasks.fail_unless_mended.defer("a", LARGE)
    [message] = world.queue.messages
    assert world.deliver(message) == 500
    assert PayloadChunk.objects.exists()

    tasks.mended.append(True)
    assert world.deliver(message, retries=1) == 200

    assert not PayloadChunk.objects.exists()
    assert Author.objects.count() == 1


def test_a_payload_is_there_until_the_function_has_returned(world):
    tasks.plain.defer("a", LARGE)
    seen = []
    with failpoints.at(
        "execute.after_call", lambda: seen.append(PayloadChunk.objects.count())
    ):
        world.deliver_all()

    assert seen[0] > 0


def test_a_duplicate_after_success_runs_nothing_and_is_acknowledged(world, caplog):
    tasks.plain.defer("a", LARGE)
    [message] = world.queue.messages
    assert world.deliver(message) == 200
    caplog.clear()

    assert world.deliver(message) == 200

    assert Author.objects.count() == 1
    [record] = [r for r in caplog.records if r.levelno == logging.WARNING]
    assert "duplicate" in record.getMessage()


def test_a_payload_outlives_a_retry_and_is_removed_with_its_success(world):
    tasks.after_a_retry.defer("a", LARGE)
    [first] = world.queue.messages
    assert world.deliver(first) == 200
    assert PayloadChunk.objects.exists()
    _, second = world.queue.messages

    assert world.deliver(second) == 200
    assert world.deliver(first) == 200

    assert Author.objects.count() == 1
    assert not PayloadChunk.objects.exists()


def test_a_payload_that_is_gone_is_an_error_that_names_it(world):
    tasks.fail_thrice.defer("a", LARGE)
    [message] = world.queue.messages
    Payload.objects.all().delete()

    assert world.deliver(message) == 500
    assert world.deliver(message, retries=2) == 200

    [failed] = FailedTask.objects.all()
    assert failed.error.startswith("cloudtask.exceptions.PayloadLost")
    assert message.id in failed.error
    assert tasks.contexts == []


@pytest.mark.parametrize("harm", ["shorter", "altered", "missing", "garbage"])
def test_a_payload_that_is_damaged_is_an_error_that_names_it(world, harm):
    tasks.fail_thrice.defer("a", LARGE)
    [message] = world.queue.messages
    damage(harm)

    assert world.deliver(message, retries=2) == 200

    [failed] = FailedTask.objects.all()
    assert "PayloadLost" in failed.error
    assert message.id in failed.error
    assert tasks.contexts == []


def damage(harm: str) -> None:
    chunk = PayloadChunk.objects.order_by("index").last()
    data = bytes(chunk.data)
    if harm == "missing":
        chunk.delete()
        return
    chunk.data = {
        "shorter": data[:-1],
        "altered": data[:-2000] + bytes(1) + data[-1999:],
        "garbage": bytes(len(data)),
    }[harm]
    chunk.save()


def test_a_success_elsewhere_while_it_is_loaded_is_a_duplicate(world):
    if connections["default"].vendor == "sqlite":
        pytest.skip("SQLite lets nobody write meanwhile")
    tasks.plain.defer("a", LARGE)
    [message] = world.queue.messages
    statuses = []

    def succeed_elsewhere() -> None:
        with failpoints.at("store.before_load", lambda: None):
            statuses.extend(in_threads([lambda: world.deliver(message)]))

    with failpoints.at("store.before_load", succeed_elsewhere):
        assert world.deliver(message) == 200

    assert statuses == [200]
    assert Author.objects.count() == 1


@pytest.mark.parametrize("mebibytes", [20, 23.9])
def test_many_mebibytes_of_bytes_arrive_as_they_were(world, mebibytes):
    data = noise(int(mebibytes * MEBIBYTE))
    tasks.remember.defer(data)

    assert world.deliver_all() == [200]

    [(_, arrived)] = tasks.contexts
    assert arrived == data


def test_text_up_to_32_mebibytes_arrives_as_it_was(world):
    text = "".join(random.Random(2).choices("abcdefghij", k=1000)) * 33_500
    tasks.remember.using(transactional=True).defer(text)

    assert world.deliver_all() == [200]

    [(_, arrived)] = tasks.contexts
    assert arrived == text


@pytest.mark.parametrize("task", [tasks.plain, tasks.once])
def test_more_is_refused_at_defer(world, task):
    with pytest.raises(PayloadTooLarge, match="33,554,432"):
        task.defer("a", "x" * 33 * MEBIBYTE)

    assert not Payload.objects.exists()


def test_small_refuses_more_than_100_kb_at_defer(world):
    tasks.small.defer("a", "x" * 100_000)
    with (
        transaction.atomic(),
        pytest.raises(PayloadTooLarge, match=r"102,400.*small=True"),
    ):
        tasks.small.defer("b", "x" * 101 * 1024)

    assert len(world.queue.messages) == 1


def test_many_calls_store_those_that_are_large(world):
    tasks.plain.defer_many([call("a"), call("b", LARGE), call("c", noise(10))])

    assert Payload.objects.count() == 1
    assert set(world.deliver_all()) == {200}
    assert Author.objects.count() == 3


def test_a_large_call_waits_for_the_commit_with_its_payload(world):
    with transaction.atomic():
        tasks.plain.defer("a", LARGE)
        assert Payload.objects.count() == 1

    assert world.deliver_all() == [200]


def test_a_payload_sent_at_once_outlives_the_rollback_of_the_block(world):
    if connections["default"].vendor == "sqlite":
        pytest.skip("SQLite refuses: see the next test")
    with rolled_back():
        tasks.plain.using(transactional=False).defer("a", LARGE)
        assert in_threads([world.deliver_all]) == [[200]]

    assert Author.objects.count() == 1


def test_where_it_can_not_outlive_the_block_defer_says_so(world):
    if connections["default"].vendor != "sqlite":
        pytest.skip("other databases let one write beside an open transaction")
    with transaction.atomic(), pytest.raises(EnqueueError, match="one writer"):
        tasks.plain.using(transactional=False).defer("a", LARGE)

    assert world.queue.messages == []


def test_a_payload_does_not_hang_on_a_transaction_of_another_alias(world):
    if connections["default"].vendor == "sqlite":
        pytest.skip("SQLite refuses")
    with transaction.atomic(using="other"), rolled_back():
        tasks.elsewhere.defer("a", LARGE)

    [message] = world.queue.messages
    assert store().load_payload(message.id)


@pytest.fixture
def elsewhere(configure):
    """Payloads rest in the other database."""
    configure(STORE={"BACKEND": conf.DATABASE_STORE, "ALIAS": "other"})


def test_a_rollback_leaves_a_payload_of_another_store_to_be_pruned(world, elsewhere):
    with rolled_back():
        tasks.plain.defer("a", LARGE)

    payloads = Payload.objects.using("other")
    assert payloads.count() == 1
    assert store().prune_payloads(timedelta(days=1), 100) == 0
    with world.later(2 * 24 * 3600):
        assert store().prune_payloads(timedelta(days=1), 100) == 1
    assert not PayloadChunk.objects.using("other").exists()


def test_a_store_elsewhere_serves_a_transaction_here(world, elsewhere):
    with transaction.atomic():
        tasks.plain.defer("a", LARGE)

    assert world.deliver_all() == [200]
    assert not PayloadChunk.objects.using("other").exists()


def test_a_refused_call_leaves_no_payload(world):
    world.queue.missing = {"default"}
    with pytest.raises(QueueNotFound):
        tasks.plain.defer("a", LARGE)

    assert not Payload.objects.exists()


def test_a_call_whose_answer_was_lost_keeps_its_payload(world):
    world.queue.loses_answers = True
    with pytest.raises(EnqueueUnavailable):
        tasks.plain.defer("a", LARGE)

    assert world.deliver_all() == [200]
    assert Author.objects.count() == 1


def test_of_many_calls_the_refused_ones_leave_no_payload(world):
    tasks.plain.using(name="taken").defer("a")
    with pytest.raises(EnqueueError):
        tasks.plain.using(name="taken").defer_many([call("b", LARGE)])

    assert not Payload.objects.exists()


def test_the_payload_of_a_parked_call_is_not_pruned(world):
    world.queue.missing = {"default"}
    with transaction.atomic():
        tasks.plain.defer("a", LARGE)
    with world.later(80 * 24 * 3600):
        call_command("cloudtask_prune")
        assert store().prune_payloads(timedelta(days=62), 100) == 0

    assert OutboxMessage.objects.count() == 1
    assert PayloadChunk.objects.exists()


def test_the_age_of_a_payload_begins_anew_with_each_retry(world):
    tasks.after_a_retry.defer("a", LARGE)
    [message] = world.queue.messages
    month = 30 * 24 * 3600
    with world.later(month):
        assert world.deliver(message) == 200
    with world.later(2.5 * month):
        assert store().prune_payloads(timedelta(days=62), 100) == 0
    with world.later(4 * month):
        assert store().prune_payloads(timedelta(days=62), 100) == 1
