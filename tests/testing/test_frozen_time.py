"""Test runs under freezegun and time-machine, which stop or move the clock."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import freezegun
import pytest
import time_machine
from django.utils import timezone

from cloudtask.testing import (
    Faults,
    NotIdempotent,
    assert_enqueued,
    assert_idempotent,
    queued,
    run_queued,
)
from tests.testapp.models import Author
from tests.testapp.tasks import calls, visit
from tests.testing import tasks
from tests.testing.tasks import seen

TOOLS = pytest.mark.parametrize(
    "stopped",
    [freezegun.freeze_time, lambda at: time_machine.travel(at, tick=False)],
    ids=["freezegun", "time-machine"],
)
MOMENTS = pytest.mark.parametrize(
    "moment",
    [datetime(2020, 1, 1, tzinfo=UTC), datetime(2040, 1, 1, tzinfo=UTC)],
    ids=["past", "future"],
)
VIA = pytest.mark.parametrize("via", ["direct", "http"])


@TOOLS
@MOMENTS
def test_a_frozen_run_counts_from_the_stopped_time(stopped, moment):
    with stopped(moment):
        tasks.tell_time.using(countdown=3600).defer()
        run_queued(freeze=True)
        assert timezone.now() == moment
    assert seen[0] == (moment + timedelta(hours=1),) * 2


@TOOLS
@MOMENTS
@VIA
def test_a_call_from_a_stopped_time_runs_after_it(stopped, moment, via):
    with stopped(moment):
        tasks.see.defer(1)
    run_queued(via=via)
    assert seen == [((1,), {})]


@TOOLS
@MOMENTS
@VIA
def test_a_call_from_real_time_runs_in_a_stopped_time(stopped, moment, via):
    tasks.see.defer(1)
    with stopped(moment):
        run_queued(via=via)
    assert seen == [((1,), {})]


@TOOLS
@pytest.mark.django_db
def test_a_transactional_call_from_the_past_survives_faults(stopped):
    with stopped("2020-01-01"):
        tasks.see.defer(1)
    run_queued(faults=Faults(crash=True, enqueue_errors=True, lose_ack=True))
    assert set(map(repr, seen)) == {"((1,), {})"}
    assert queued() == []


@TOOLS
def test_idempotence_is_told_in_a_stopped_time(account, stopped):
    with stopped("2030-01-01"):
        assert_idempotent(tasks.pay_once, account.pk, 10)
        assert_idempotent(tasks.open_account, "new")
        with pytest.raises(NotIdempotent, match="pages 10 -> 20"):
            assert_idempotent(tasks.pay, account.pk, 10)


@TOOLS
@MOMENTS
@pytest.mark.django_db
def test_an_iteration_runs_in_a_stopped_time(stopped, moment):
    Author.objects.bulk_create(Author(name=str(n)) for n in range(20))
    with stopped(moment):
        visit.iterate(Author.objects.all(), shards=2)
        assert run_queued().iterations[0].report.done == 20
    assert len(calls) == 20


@TOOLS
def test_an_eta_agrees_in_a_stopped_time(stopped):
    with stopped("2030-01-01"):
        tasks.mail.using(countdown=60).defer(7)
        assert_enqueued(tasks.mail.using(countdown=60), 7)
        in_a_minute = timezone.now() + timedelta(minutes=1)
        assert_enqueued(tasks.mail.using(eta=in_a_minute), 7)


@pytest.mark.django_db
def test_waiting_ends_in_a_stopped_time():
    Author.objects.create(name="Ann")
    run = visit.iterate(Author.objects.all())
    with freezegun.freeze_time("2030-01-01"), pytest.raises(TimeoutError):
        run.wait(timeout=0.1)
