"""No carried value is seen in logs, failed tasks or frames of the library."""

from __future__ import annotations

import logging
from contextlib import nullcontext

import pytest

from cloudtask.exceptions import EnqueueError, PayloadTooLarge, UnsupportedValue
from cloudtask.models import FailedTask
from cloudtask.testing import run_queued
from tests.carriers.context import Observer, Odd, see
from tests.testapp.models import Author

pytestmark = pytest.mark.django_db(databases="__all__")

MARK = "a-marked-secret"


@pytest.fixture(autouse=True)
def _marked(carriers, caplog):
    carriers("Odd", "Observer")
    caplog.set_level(logging.DEBUG)
    Odd.captured = {"token": MARK}
    Observer.captured = {"token": MARK}
    Odd.restoring = lambda carried, context: nullcontext()
    yield
    assert MARK not in caplog.text


def values_in_frames(error: BaseException | None) -> str:
    """The local variables of the library's frames, in the error and its causes."""
    found = []
    while error is not None:
        trace = error.__traceback__
        while trace is not None:
            frame = trace.tb_frame
            if str(frame.f_globals.get("__name__")).startswith("cloudtask."):
                found.append(repr(dict(frame.f_locals)))
            trace = trace.tb_next
        error = error.__cause__ or error.__context__
    return "".join(found)


def test_an_error_of_capture_shows_no_value_of_another_carrier(carriers):
    carriers("Odd", "Broken")
    with pytest.raises(EnqueueError) as raised:
        see.defer()
    assert MARK not in values_in_frames(raised.value)


@pytest.mark.parametrize(
    ("captured", "kind"),
    [({"token": [MARK]}, UnsupportedValue), ({"token": MARK * 200}, PayloadTooLarge)],
    ids=["type", "size"],
)
def test_a_refused_value_is_not_shown(captured, kind):
    Odd.captured = captured
    with pytest.raises(kind) as raised:
        see.defer()
    assert MARK not in str(raised.value)
    assert MARK not in values_in_frames(raised.value)


def test_an_error_of_restore_shows_no_value(carriers):
    def restore(carried, context):
        raise LookupError("no tenant")

    Odd.restoring = restore
    see.using(max_attempts=1).defer()
    report = run_queued(errors="retry")
    assert MARK not in values_in_frames(report.attempts[0].error)
    [kept] = FailedTask.objects.all()
    assert MARK not in f"{kept.error}{kept.traceback}{kept.arguments}"


def test_telemetry_that_fails_logs_no_value():
    Observer.error = RuntimeError("the collector is down")
    see.defer()
    Author.objects.create(name="a")
    see.iterate(Author.objects.all(), args=(1,))
    run_queued()
