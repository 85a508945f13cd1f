"""unique and defer() at each isolation level, with connections that work at once."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest
from django.db import OperationalError, connections, transaction

from cloudtask import failpoints
from cloudtask.exceptions import EnqueueUnavailable
from cloudtask.models import OutboxMessage, Payload, UniqueKey
from cloudtask.stores.transactions import MOST_TRIES
from tests.durability import tasks
from tests.durability.conftest import World, at_once
from tests.durability.database import rolled_back
from tests.support.waiting import PATIENCE
from tests.testapp.models import Author

pytestmark = pytest.mark.django_db(databases="__all__")

CLAIMERS = 8
KIND = os.environ.get("CLOUDTASK_TEST_DATABASE", "sqlite")
LEVELS = {
    "postgres": ("READ COMMITTED", "REPEATABLE READ", "SERIALIZABLE"),
    "mysql": ("READ COMMITTED", "REPEATABLE READ"),
    "sqlite": ("IMMEDIATE", "DEFERRED"),
}
# A transaction at these levels keeps the snapshot that its first query has made.
SNAPSHOTS = {
    ("postgres", "REPEATABLE READ"),
    ("postgres", "SERIALIZABLE"),
    ("sqlite", "DEFERRED"),
}
# Statements with which each server raises the error of a conflict.
DISTURBED = {
    "postgres": "DO $$ BEGIN RAISE EXCEPTION USING ERRCODE = '40001'; END $$",
    "mysql": "SIGNAL SQLSTATE '40001' SET MYSQL_ERRNO = 1213",
}
NOTHING = "Nothing was enqueued: roll your transaction on 'default' back"


@pytest.fixture(params=LEVELS[KIND])
def level(request: pytest.FixtureRequest, world: World) -> Iterator[str]:
    """The isolation level of new connections, until the fixture `world` ends."""
    chosen: str = request.param
    connections["default"].close()
    settings = connections.settings["default"]
    options = {**settings["OPTIONS"], **_options(chosen)}
    connections.settings["default"] = {**settings, "OPTIONS": options}
    connections["default"] = connections.create_connection("default")
    yield chosen
    connections["default"].close()


def _options(level: str) -> dict[str, Any]:
    if KIND == "sqlite":
        return {"transaction_mode": level}
    if KIND == "mysql":
        return {"isolation_level": level.lower()}
    from django.db.backends.postgresql.psycopg_any import IsolationLevel

    return {"isolation_level": IsolationLevel[level.replace(" ", "_")]}


def keeps_snapshot(level: str) -> bool:
    """Whether a transaction can't write rows that changed after its first query."""
    if KIND != "mysql" or level != "REPEATABLE READ":
        return (KIND, level) in SNAPSHOTS
    with connections["default"].cursor() as cursor:
        # MariaDB 10.6 and newer; on by default since 11.6.
        cursor.execute("SHOW VARIABLES LIKE 'innodb_snapshot_isolation'")
        found = cursor.fetchone()
    return bool(found) and found[1] == "ON"


def by_claimers(action: Callable[[int], Any], times: int = CLAIMERS) -> list[Any]:
    """Call `action` in threads that begin at the same time."""
    return at_once([partial(action, number) for number in range(times)])


def disturbing(point: str, times: int) -> Any:
    """Raise the server's own error of a conflict at a failpoint, the first `times`."""
    left = [None] * times

    def disturb() -> None:
        if left:
            left.pop()
            with connections["default"].cursor() as cursor:
                cursor.execute(DISTURBED[KIND])

    return failpoints.at(point, disturb)


@contextmanager
def disturbed_inserts(table: str, times: int) -> Iterator[None]:
    """Raise that error at the first `times` that a row is inserted into a table."""
    left = [None] * times

    def disturb(execute: Any, sql: str, params: Any, many: bool, context: Any) -> Any:
        if left and sql.startswith("INSERT") and table in sql:
            left.pop()
            sql, params = DISTURBED[KIND], None
        return execute(sql, params, many, context)

    with connections["default"].execute_wrapper(disturb):
        yield
    assert not left


needs_server = pytest.mark.skipif(
    KIND == "sqlite", reason="SQLite has one writer at a time: it ends no transaction"
)


@pytest.mark.usefixtures("level")
def test_claims_in_transactions_of_ours_leave_one_call(world: World) -> None:
    for key in "abc":
        ids = by_claimers(lambda number, key=key: tasks.single.defer(key).id)

        assert len(set(ids)) == 1
        assert UniqueKey.objects.filter(message=ids[0]).exists()
    assert len(world.queue.messages) == 3


@needs_server
@pytest.mark.usefixtures("level")
def test_claims_beside_transactions_of_callers_leave_one_call(world: World) -> None:
    chosen = tasks.single.using(transactional=False)

    def claim(number: int) -> str:
        with transaction.atomic():
            assert not Author.objects.exists()
            return chosen.defer("a").id

    ids = by_claimers(claim)

    assert len(set(ids)) == 1
    assert [message.id for message in world.queue.messages] == ids[:1]


@pytest.mark.parametrize("round_", range(3))
def test_of_claims_in_transactions_of_callers_at_most_one_is_enqueued(
    world: World, level: str, round_: int
) -> None:
    """Half of the transactions are rolled back, as in a view that raises."""

    def claim(number: int) -> str | None:
        try:
            if number % 2:
                with rolled_back():
                    tasks.single.defer("a")
                return None
            with transaction.atomic():
                return tasks.single.defer("a").id
        except EnqueueUnavailable as error:
            errors.append(str(error))
        except OperationalError:  # from the COMMIT of the caller's transaction
            failed_commits.append(number)
        return None

    errors: list[str] = []
    failed_commits: list[int] = []
    receipts = {one for one in by_claimers(claim) if one}

    assert all(NOTHING in text for text in errors)
    # MariaDB ends some of the transactions that wait for one that is rolled back.
    deadlocks = [text for text in errors if KIND == "mysql" and "Deadlock" in text]
    assert keeps_snapshot(level) or errors == deadlocks
    assert level == "SERIALIZABLE" or not failed_commits

    assert [message.id for message in world.queue.messages] == [*receipts]
    assert {key.message for key in UniqueKey.objects.all()} == receipts
    assert receipts or errors


def test_a_claim_that_a_snapshot_hides_is_refused_or_seen(
    world: World, level: str
) -> None:
    if (KIND, level) == ("sqlite", "IMMEDIATE"):
        pytest.skip("the first transaction lets nobody else write")
    with transaction.atomic():
        assert not UniqueKey.objects.exists()
        [first] = at_once([lambda: tasks.single.defer("a")])
        if keeps_snapshot(level):
            with pytest.raises(EnqueueUnavailable, match=NOTHING):
                tasks.single.defer("a")
            transaction.set_rollback(True)
        else:
            assert tasks.single.defer("a") == first

    with transaction.atomic():
        assert tasks.single.defer("a") == first
    assert len(world.queue.messages) == 1


@needs_server
@pytest.mark.usefixtures("level")
@pytest.mark.parametrize("task", [tasks.single, tasks.plain.using(transactional=True)])
def test_a_disturbed_transaction_of_ours_is_tried_again(
    world: World, task: Any
) -> None:
    with disturbing("outbox.added", times=3):
        receipt = task.defer("a")

    assert [message.id for message in world.queue.messages] == [receipt.id]
    assert not OutboxMessage.objects.exists()


@needs_server
@pytest.mark.usefixtures("level")
def test_a_disturbed_save_of_a_payload_is_tried_again(
    world: World, configure: Callable[..., None]
) -> None:
    configure(MAX_TASK_SIZE=2_000)
    with disturbed_inserts("payloadchunk", times=2):
        receipt = tasks.plain.defer("a", os.urandom(5_000))

    [message] = world.queue.messages
    assert message.stored == receipt.id
    assert Payload.objects.count() == 1


@needs_server
@pytest.mark.usefixtures("level")
@pytest.mark.parametrize("task", [tasks.single, tasks.plain])
def test_a_disturbed_transaction_of_the_caller_says_that_nothing_was_enqueued(
    world: World, task: Any
) -> None:
    with (
        disturbing("outbox.added", times=1),
        pytest.raises(EnqueueUnavailable, match=NOTHING),
        transaction.atomic(),
    ):
        task.defer("a")

    assert not OutboxMessage.objects.exists()
    assert not UniqueKey.objects.exists()
    assert world.queue.messages == []


@needs_server
@pytest.mark.usefixtures("level")
def test_a_transaction_that_is_disturbed_each_time_raises_in_the_end(
    world: World,
) -> None:
    with (
        disturbing("outbox.added", times=MOST_TRIES),
        pytest.raises(EnqueueUnavailable),
    ):
        tasks.single.defer("a")

    assert world.queue.messages == []
    assert not UniqueKey.objects.exists()


@pytest.mark.usefixtures("level")
def test_calls_that_are_deferred_at_once_all_leave(world: World) -> None:
    chosen = tasks.plain.using(transactional=True)

    ids = by_claimers(lambda number: chosen.defer(str(number)).id)

    assert sorted(message.id for message in world.queue.messages) == sorted(ids)
    assert not OutboxMessage.objects.exists()


@needs_server
def test_a_commit_of_the_caller_that_fails_enqueues_nothing(
    world: World, level: str
) -> None:
    """Two transactions that each read what the other one writes."""
    if level != "SERIALIZABLE":
        pytest.skip("only SERIALIZABLE sees it")
    barrier = threading.Barrier(2)

    def write(number: int) -> str | None:
        try:
            with transaction.atomic():
                assert not Author.objects.exists()
                Author.objects.create(name=str(number))
                receipt = tasks.plain.defer(str(number))
                barrier.wait(PATIENCE)
            return receipt.id
        except OperationalError:
            return None

    committed = [one for one in by_claimers(write, 2) if one]

    assert len(committed) == 1
    assert [message.id for message in world.queue.messages] == committed
    assert not OutboxMessage.objects.exists()
