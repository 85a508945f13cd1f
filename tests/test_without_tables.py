"""Databases without tables: what needs an outbox is refused, and all else works.

The alias `entities` is Datastore, through django-gcloud-connectors; `nothing` is what
Django makes of an empty DATABASES.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import timedelta
from typing import Any
from unittest.mock import patch

import pytest
from django.db import transaction

from cloudtask import Schedule, chain, deferred, failpoints, group
from cloudtask.exceptions import ConfigurationError
from cloudtask.failpoints import Crashed, crash
from cloudtask.schedules import declare
from cloudtask.schedules.declared import _declared
from cloudtask.schedules.listed import listed
from cloudtask.schedules.ticking import TickFailed, disable, enable, run_now, tick
from cloudtask.sending import relay
from cloudtask.testing import QueuedTask, queued, run_queued
from tests.stores.datastore_fixtures import empty_store
from tests.support import clock
from tests.support.entities import ALIAS, known
from tests.support.proxy import DatastoreProxy
from tests.testapp import tasks
from tests.testapp.tasks import note

NOTHING = "nothing"


@pytest.fixture
def nothing() -> Iterator[None]:
    with known(NOTHING, {"ENGINE": "django.db.backends.dummy"}):
        yield


ON_NOTHING = note.using(database=NOTHING)


@pytest.mark.parametrize(
    ("option", "need", "advice"),
    [
        ({"unique": True}, "unique", "With small=True"),
        ({"atomic": True}, "atomic=True", "a second delivery"),
        ({"transactional": True}, "transactional=True", "sent after the commit"),
    ],
)
def test_an_option_that_needs_tables_is_refused_with_the_reason(
    nothing: None, option: dict[str, bool], need: str, advice: str
) -> None:
    with pytest.raises(ConfigurationError) as caught:
        ON_NOTHING.using(**option).defer(1)

    text = str(caught.value)
    assert f"{need} needs tables of a relational database" in text
    assert "DATABASES['nothing'], which has the engine django.db.backends.dummy" in text
    assert advice in text
    assert queued() == []


def test_a_step_that_needs_tables_is_refused_with_its_chain(nothing: None) -> None:
    steps = chain(note.s(1), ON_NOTHING.using(atomic=True).si(2))

    with pytest.raises(ConfigurationError, match=r"atomic=True needs tables"):
        steps.defer()
    assert queued() == []


def test_a_chain_that_should_wait_for_a_commit_is_refused(nothing: None) -> None:
    steps = chain(ON_NOTHING.s(1), note.s()).using(transactional=True)

    with pytest.raises(ConfigurationError, match="A chain was refused"):
        steps.defer()
    assert queued() == []


def test_an_iteration_that_should_wait_for_a_commit_is_refused(nothing: None) -> None:
    with pytest.raises(ConfigurationError, match=r"An iteration of .*transactional"):
        ON_NOTHING.map([1], transactional=True)
    assert queued() == []


def test_a_schedule_is_refused_by_the_tick(
    nothing: None,
) -> None:
    task = note._self_definition
    options = replace(task.options, database=NOTHING)
    with patch.dict(_declared, clear=True):
        declare(replace(task, options=options), "* * * * *")

        with pytest.raises(TickFailed, match=r"needs tables .* Datastore, or"):
            tick()


@pytest.fixture
def hourly(nothing: None, faults: DatastoreProxy, settings: Any) -> Iterator[Any]:
    """A schedule of a project whose only database is Datastore."""
    settings.CLOUDTASK = {"STORE": empty_store()}
    task = note._self_definition
    options = replace(task.options, database=NOTHING)
    every = Schedule(timedelta(hours=1), args=(1,), overlap="skip", catch_up="all")
    with patch.dict(_declared, clear=True), clock.ahead((600 - time.time()) % 3600):
        declare(replace(task, options=options), every)
        tick()
        yield _declared[task.path]


def test_datastore_keeps_schedules(hourly: Any) -> None:
    with clock.ahead(3 * 3600.0):
        assert tick().enqueued == 3
        assert tick().enqueued == 0
        run_queued()
        run_now(hourly)
        [line] = listed()
        assert line.enqueued_at is not None
        run_queued()

    assert len(tasks.calls) == 4


def test_two_ticks_at_once_make_one_call_in_datastore(hourly: Any) -> None:
    twice = threading.Barrier(2)

    def ticks() -> None:
        twice.wait(20)
        tick()

    with clock.ahead(3600.0):
        threads = [threading.Thread(target=ticks) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(queued()) == 1
        assert tick().enqueued == 0


@pytest.mark.parametrize("point", ["tick.sent", "tick.committed"])
def test_a_crash_of_a_tick_in_datastore_makes_no_second_call(
    hourly: Any, point: str
) -> None:
    with clock.ahead(3600.0):
        with failpoints.at(point, crash), pytest.raises(Crashed):
            tick()
        tick()
        run_queued()

    assert len(tasks.calls) == 1


def test_a_schedule_in_datastore_is_switched_off_and_on(hourly: Any) -> None:
    disable(hourly)
    with clock.ahead(3600.0):
        assert tick().enqueued == 0
        enable(hourly)
        assert tick().enqueued == 0
    with clock.ahead(2 * 3600.0):
        assert tick().enqueued == 1


def test_relays_pass_over_a_database_without_tables(nothing: None) -> None:
    assert NOTHING not in relay.aliases()


def test_a_small_unique_task_needs_no_table(nothing: None) -> None:
    ON_NOTHING.using(unique=True, small=True).defer(1)

    assert len(queued()) == 1


# In a transaction of Datastore


def sent() -> list[QueuedTask]:
    return [one for one in queued() if not one.awaits_commit]


@pytest.fixture
def on_datastore(entities: Any, settings: Any) -> Any:
    """A task whose alias is Datastore, which keeps the state of tasks, too."""
    settings.CLOUDTASK = {"STORE": empty_store()}
    return note.using(database=ALIAS)


@contextmanager
def rolled_back() -> Iterator[None]:
    with suppress(KeyError), transaction.atomic(using=ALIAS):
        yield
        raise KeyError


@pytest.mark.parametrize("size", [1, 2_000_000])
def test_a_task_leaves_with_the_commit(on_datastore: Any, size: int) -> None:
    with transaction.atomic(using=ALIAS):
        on_datastore.defer("x" * size)
        assert sent() == []

    assert len(sent()) == 1
    run_queued()
    assert tasks.calls == [(("x" * size,), {})]


@pytest.mark.parametrize("size", [1, 2_000_000])
def test_a_rollback_takes_the_task_along(on_datastore: Any, size: int) -> None:
    with rolled_back():
        on_datastore.defer("x" * size)
        group(on_datastore.s(1), on_datastore.s(2)).defer()
        chain(on_datastore.s(3), note.s()).defer()
        deferred.defer(note, 4, _using=ALIAS)

    assert sent() == []


def test_a_task_that_does_not_wait_leaves_at_once(on_datastore: Any) -> None:
    with rolled_back():
        on_datastore.using(transactional=False).defer(1)

    assert len(sent()) == 1


def test_workflows_and_iterations_leave_with_the_commit(on_datastore: Any) -> None:
    with transaction.atomic(using=ALIAS):
        group(on_datastore.s(1), on_datastore.s(2)).defer()
        chain(on_datastore.s(3), note.s()).defer()
        on_datastore.map([4])
        assert sent() == []

    run_queued()
    called = [args[0] for args, _ in tasks.calls]
    assert sorted(called, key=str) == [(3,), 1, 2, 3, 4]


def test_djangaes_defer_waits_for_the_commit_as_before(on_datastore: Any) -> None:
    with transaction.atomic(using=ALIAS):
        deferred.defer(note, 1, _using=ALIAS, _transactional=True)
        assert sent() == []

    deferred.defer(note, 2, _using=ALIAS, _transactional=True)
    assert len(sent()) == 2
