"""Carriers that fail, and carriers that return what can't travel."""

from __future__ import annotations

import json
from contextlib import contextmanager, nullcontext, suppress

import pytest
from django.core.management import call_command
from django.core.management.base import SystemCheckError
from django.db import connection, transaction

from cloudtask import Retry, call
from cloudtask.carriers import MOST, state
from cloudtask.exceptions import (
    ConfigurationError,
    EnqueueError,
    PayloadTooLarge,
    PermanentTaskFailure,
    UnsupportedValue,
)
from cloudtask.models import FailedTask
from cloudtask.testing import queued, run_queued
from tests.carriers import context
from tests.carriers.context import Observer, Odd, see, seen, tenant
from tests.testapp.models import Author

pytestmark = pytest.mark.django_db(databases="__all__")


@pytest.fixture(autouse=True)
def _odd(carriers):
    carriers("Odd")
    Odd.restoring = lambda carried, context: nullcontext()


# Capture


@pytest.mark.parametrize(
    "captured",
    [
        "text",
        b"bytes",
        7,
        ["a"],
        {"id": 7},
        {7: "id"},
        {"id": None},
        {"id": {"nested": "x"}},
        {"id": b"x"},
        {("a",): "x"},
    ],
    ids=repr,
)
def test_values_that_are_no_texts_are_refused_and_nothing_is_enqueued(captured):
    Odd.captured = captured
    with pytest.raises(UnsupportedValue, match="'odd' must return a dict of str to st"):
        see.defer()
    with pytest.raises(UnsupportedValue):
        see.defer_many([call()])
    with pytest.raises(UnsupportedValue):
        see.map([1])
    assert queued() == []


def test_a_coroutine_is_refused():
    async def captured():
        return {}

    Odd.captured = captured
    with pytest.raises(UnsupportedValue, match="not coroutine"):
        see.defer()


def test_an_error_of_capture_is_an_error_of_defer_that_shows_no_value():
    def fail():
        raise LookupError("secret of the tenant")

    Odd.captured = fail
    with pytest.raises(EnqueueError, match="'odd' failed with LookupError") as raised:
        see.defer()
    assert "secret" not in str(raised.value)
    assert isinstance(raised.value.__cause__, LookupError)
    assert queued() == []


@pytest.mark.parametrize(
    "captured",
    [
        {},
        {"$": "mark"},
        {"$": "int", "x": "y"},
        {"": ""},
        {"a": "\0\n\t\"\\'"},
        {"snowman \u2603": "\U0001f600"},
        {"lone": "\ud800"},
        {"carried": '{"tenant":{"id":"x"}}'},
    ],
    ids=ascii,
)
def test_any_text_comes_back_as_it_was(captured):
    got = []
    Odd.captured = captured
    Odd.restoring = lambda carried, context: got.append(carried) or nullcontext()
    see.defer()
    see.using(transactional=True).defer()
    run_queued()
    see.map([1])
    run_queued()
    assert len(got) > 2
    assert all(one == captured for one in got)


def test_context_of_two_kilobytes_travels_and_one_byte_more_does_not():
    rest = len(json.dumps({"odd": {"x": ""}}, separators=(",", ":")))
    Odd.captured = {"x": "y" * (MOST - rest)}
    see.defer()
    run_queued()
    Odd.captured = {"x": "y" * (MOST - rest + 1)}
    with pytest.raises(PayloadTooLarge, match="2,049 bytes, more than 2,048"):
        see.defer()


def test_a_task_of_the_largest_inline_size_has_room_for_its_context():
    Odd.captured = {"x": '"' * 1000}
    for size in range(993_000, 1_000_001, 500):
        see.defer("x" * size)
    run_queued()
    assert len(seen) == len(range(993_000, 1_000_001, 500))


def test_capture_leaves_the_context_variables_of_the_caller():
    def change():
        tenant.set("left by capture")
        return {}

    Odd.captured = change
    see.defer()
    assert tenant.get() is None


# Restore


def _fails(error):
    def restore(carried, context):
        raise error

    return restore


@contextmanager
def _fails_at_the_end(carried, context):
    yield
    raise LookupError("at the end")


@contextmanager
def _yields_never(carried, context):
    if carried == "never":
        yield


@contextmanager
def _yields_twice(carried, context):
    yield
    yield


async def _coroutine(carried, context):
    return nullcontext()


@pytest.mark.parametrize(
    ("restoring", "error"),
    [
        (_fails(LookupError("no tenant")), LookupError),
        (_fails(SystemExit(1)), SystemExit),
        (_fails_at_the_end, LookupError),
        (_yields_never, RuntimeError),
        (_yields_twice, RuntimeError),
        (_coroutine, TypeError),
        (lambda carried, context: None, TypeError),
        (lambda carried: nullcontext(), TypeError),
    ],
    ids=["error", "exit", "end", "never", "twice", "coroutine", "none", "signature"],
)
def test_a_carrier_that_fails_makes_each_attempt_fail(restoring, error):
    Odd.restoring = restoring
    see.using(max_attempts=2).defer()
    report = run_queued(errors="retry")
    assert [type(one.error) for one in report.attempts] == [error, error]
    assert FailedTask.objects.count() == 1


def test_a_function_is_not_called_without_its_context():
    Odd.restoring = _fails(LookupError("no tenant"))
    see.using(max_attempts=1).defer()
    run_queued(errors="collect")
    assert seen == []


def test_a_carrier_may_ask_for_another_attempt_or_for_none():
    errors = [Retry(delay=1), PermanentTaskFailure("gone")]
    Odd.restoring = lambda carried, context: _fails(errors.pop(0))(carried, context)
    see.defer()
    report = run_queued(errors="retry")
    assert [one.outcome.value for one in report.attempts] == ["retried", "exhausted"]


def test_a_carrier_can_not_hide_the_error_of_a_task():
    Odd.restoring = lambda carried, context: suppress(Exception)
    context.see_and_fail.using(max_attempts=1).defer()
    report = run_queued(errors="collect")
    assert isinstance(report.attempts[0].error, ValueError)


def test_carriers_are_left_in_turn_when_a_later_one_fails(carriers):
    carriers("Tenant", "Odd")
    Odd.captured = {}
    Odd.restoring = _fails(LookupError("late"))
    see.using(max_attempts=1).defer()
    run_queued(errors="collect")
    assert tenant.get() is None


def test_a_carrier_that_leaves_a_transaction_open_has_failed():
    def restore(carried, context):
        transaction.atomic().__enter__()
        return nullcontext()

    Odd.restoring = restore
    see.using(max_attempts=1).defer()
    blocks = len(connection.atomic_blocks)
    report = run_queued(errors="collect")
    assert "transaction open" in str(report.attempts[0].error)
    assert len(connection.atomic_blocks) == blocks


def test_a_carrier_may_hold_a_transaction_around_the_call():
    Odd.restoring = lambda carried, context: transaction.atomic()
    add_and_fail.using(max_attempts=2).defer()
    add_and_fail.defer(fails=False)
    run_queued(errors="retry")
    assert [one.name for one in Author.objects.all()] == ["fails=False"]
    assert FailedTask.objects.count() == 1


@context.task
def add_and_fail(fails=True):
    Author.objects.create(name=f"fails={fails}")
    if fails:
        raise ValueError("broken")


# Carriers of another version


def test_a_call_waits_for_a_version_that_has_its_carrier(carriers):
    carriers("Tenant")
    context.tenant.set("red")
    see.using(max_attempts=3).defer(1)
    context.tenant.set(None)
    carriers()
    with pytest.raises(ConfigurationError, match="carries context of 'tenant'"):
        run_queued()
    carriers("Tenant")
    run_queued()
    assert seen == [("red", 1)]


def test_a_call_from_before_a_carrier_is_restored_with_none(carriers):
    carriers()
    see.defer(1)
    carriers("Tenant", "Observer")
    run_queued()
    assert seen == [(None, 1)]


def test_a_run_planned_before_carriers_changed_waits_and_then_goes_on(carriers):
    Author.objects.create(name="a")
    carriers("Tenant")
    context.tenant.set("red")
    run = context.see_row.iterate(Author.objects.all(), finalize=context.see_end)
    context.tenant.set(None)
    carriers()
    with pytest.raises(ConfigurationError, match="carries context of 'tenant'"):
        run_queued()
    assert seen == []
    carriers("Tenant")
    run_queued()
    assert [one for one, _ in seen] == ["red", "red"]
    assert run.state == "finished"


def test_a_run_says_which_context_it_waits_for(carriers):
    Author.objects.create(name="a")
    carriers("Tenant")
    context.tenant.set("red")
    run = context.see_row.iterate(Author.objects.all(), finalize=context.see_end)
    context.tenant.set(None)
    carriers()
    run_queued(errors="collect")
    assert "carries context of 'tenant'" in run.refresh().error


@pytest.mark.parametrize("step", ["plan", "walk", "finalize"])
def test_a_carrier_that_gives_up_fails_the_run_which_can_be_resumed(step):
    Author.objects.create(name="a")

    def restore(carried, context):
        if context.task == f"cloudtask.{step}":
            raise PermanentTaskFailure("The tenant is gone.")
        return nullcontext()

    Odd.restoring = restore
    run = context.see_row.iterate(Author.objects.all(), finalize=context.see_end)
    run_queued(errors="collect")
    assert run.refresh().state == "failed"
    assert "The tenant is gone." in run.error
    Odd.restoring = lambda carried, context: nullcontext()
    run.resume()
    run_queued()
    assert run.refresh().state == "finished"
    assert len(seen) == 2


@pytest.mark.parametrize("step", ["plan", "walk", "finalize"])
def test_a_carrier_that_fails_once_delays_a_run(step):
    for name in "ab":
        Author.objects.create(name=name)
    failures = []

    def restore(carried, context):
        if context.task == f"cloudtask.{step}" and not failures:
            failures.append(step)
            raise LookupError("for a moment")
        return nullcontext()

    Odd.restoring = restore
    run = context.see_row.iterate(Author.objects.all(), finalize=context.see_end)
    run_queued(errors="retry")
    assert failures == [step]
    assert run.refresh().state == "finished"
    assert len(seen) == 3


def test_context_of_telemetry_that_is_gone_is_dropped(carriers):
    carriers("Observer")
    see.defer(1)
    carriers()
    run_queued()
    assert seen == [(None, 1)]


# Telemetry


def test_telemetry_observes_the_whole_of_a_call(carriers):
    carriers("Observer")
    see.defer(1)
    run_queued()
    ours = {"from": "here"}
    assert Observer.notes == [
        ("enqueueing", see.path, 1, True),
        ("capture",),
        ("restore", ours, see.path),
        ("settled", "succeeded", None),
        ("left",),
    ] or Observer.notes == [
        ("enqueueing", see.path, 1, True),
        ("capture",),
        ("sending", "default", [ours]),
        ("restore", ours, see.path),
        ("settled", "succeeded", None),
        ("left",),
    ]


@pytest.mark.parametrize("captured", ["text", {"a": 1}, {"a": "x" * 3000}], ids=str)
def test_telemetry_that_captures_what_can_not_travel_is_left_out(
    carriers, captured, caplog
):
    carriers("Tenant", "Observer")
    context.tenant.set("red")
    Observer.captured = captured
    see.defer(1)
    run_queued()
    context.tenant.set(None)
    assert seen == [("red", 1)]
    assert ("restore", None, see.path) in Observer.notes
    assert "observer" in caplog.text


def test_telemetry_that_always_fails_changes_nothing(carriers, caplog):
    carriers("Observer", "Tenant")
    context.tenant.set("red")
    Observer.error = RuntimeError("the collector is down")
    see.defer(1)
    see.defer_many([call(2)])
    see.map([3])
    run_queued()
    context.tenant.set(None)
    assert seen == [("red", 1), ("red", 2), ("red", 3)]
    assert "the collector is down" in caplog.text


@pytest.mark.parametrize("error", [SystemExit(3), GeneratorExit()], ids=repr)
def test_telemetry_that_exits_changes_nothing(carriers, error):
    carriers("Observer")
    Observer.error = error
    see.defer(1)
    run_queued()
    assert seen == [(None, 1)]


def test_telemetry_changes_no_error_of_a_call_that_is_refused(carriers):
    carriers("Observer")
    with pytest.raises(ConfigurationError, match="no alias 'nowhere'"):
        see.using(database="nowhere").defer(1)
    assert see.defer_many([]) == []


# Settings


@pytest.mark.parametrize(
    ("names", "text"),
    [
        (["no.such.Carrier"], "names 'no.such.Carrier', which can't be made"),
        (["Missing"], "can't be made"),
        (["Unmade"], "no such server"),
        (["Unfinished"], r"has no method restore\(\)"),
        (["seen"], r"has no method capture\(\)"),
        (["Nameless"], "has no `name`"),
        (["Tenant", "Twin"], "more than one carrier named 'tenant'"),
    ],
    ids=lambda value: str(value),
)
def test_wrong_settings_are_found_by_check(carriers, names, text):
    carriers(*names)
    with pytest.raises(SystemCheckError, match=text):
        call_command("check")
    with pytest.raises(ConfigurationError, match=text):
        see.defer()


@pytest.mark.parametrize("value", ["shop.Tenant", [7], {"a": "b"}], ids=str)
def test_a_value_that_is_no_list_of_paths_is_refused(settings, value):
    settings.CLOUDTASK = {"CARRIERS": value}
    with pytest.raises(ConfigurationError, match="CARRIERS"):
        see.defer()


def test_without_carriers_nothing_travels(carriers):
    carriers()
    see.defer()
    run_queued()
    assert state.is_off
