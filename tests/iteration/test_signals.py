"""Signals tell when a run starts, is paused, fails and ends: once each."""

from __future__ import annotations

import pytest
from django.db import transaction

from cloudtask import current, signals, task
from cloudtask.exceptions import PermanentTaskFailure
from cloudtask.testing import run_queued
from tests.testapp.models import Author

pytestmark = pytest.mark.django_db(databases="__all__")

NAMES = ("started", "paused", "failed", "finished")


@pytest.fixture
def sent():
    found = []
    receivers = {}
    for name in NAMES:

        def receive(sender, run, state, error, name=name, **kwargs):
            found.append((name, str(state), error))
            assert len(run) == 32
            assert sender == visit.path or sender == pausing.path

        receivers[name] = receive
        getattr(signals, f"iteration_{name}").connect(receive)
    yield found
    for name, receive in receivers.items():
        getattr(signals, f"iteration_{name}").disconnect(receive)


@pytest.fixture(autouse=True)
def _authors(db):
    for name in "abcdef":
        Author.objects.create(name=name)


@task
def visit(author, fails=()):
    if author.name in fails:
        raise PermanentTaskFailure(f"{author.name} is broken")


@task
def pausing(author):
    if author.name == "c":
        current().iteration.pause()


@task
def end(fails=()):
    if "end" in fails:
        raise PermanentTaskFailure("the end is broken")


def rows():
    return Author.objects.all()


def test_a_run_is_started_and_finished_once(sent):
    visit.iterate(rows(), finalize=end, shards=3)
    run_queued()
    assert sent == [("started", "running", ""), ("finished", "finished", "")]


def test_a_run_without_rows_is_started_and_finished(sent):
    visit.iterate(rows().filter(name="z"))
    run_queued()
    assert [one[:2] for one in sent] == [
        ("started", "running"),
        ("finished", "finished"),
    ]


def test_a_run_is_paused_by_its_handle_and_goes_on_after_resume(sent):
    run = visit.iterate(rows())
    run.pause()
    assert sent == [("paused", "paused", "")]
    run_queued()
    run.resume()
    run_queued()
    assert [name for name, *_ in sent] == ["paused", "started", "finished"]


def test_a_callback_that_pauses_its_run_in_a_transaction_is_noticed_once(sent):
    run = pausing.iterate(rows(), atomic="page", shards=1)
    run_queued()
    assert sent == [("started", "running", ""), ("paused", "paused", "")]
    assert run.refresh().state == "paused"


def test_a_row_that_pauses_its_run_says_why(sent):
    visit.iterate(rows(), args=(["b"],), finalize=end, on_error="pause", shards=1)
    run_queued()
    assert [one[:2] for one in sent] == [("started", "running"), ("paused", "paused")]
    assert "b is broken" in sent[1][2]


def test_too_many_failed_rows_pause_a_run_once(sent):
    visit.iterate(
        rows(), args=(list("abc"),), finalize=end, on_error="skip", max_failures=1
    )
    run_queued()
    assert [name for name, *_ in sent] == ["started", "paused"]
    assert "max_failures" in sent[1][2]


def test_an_aborted_run_is_finished_after_its_on_failure(sent):
    visit.iterate(
        rows(), args=(["b"],), finalize=end, on_failure=end, on_error="abort", shards=1
    )
    run_queued()
    assert [one[:2] for one in sent] == [
        ("started", "running"),
        ("finished", "aborted"),
    ]
    assert "b is broken" in sent[1][2]


def test_a_cancelled_run_is_finished(sent):
    visit.iterate(rows()).cancel()
    run_queued()
    assert [one[:2] for one in sent] == [("finished", "cancelled")]


def test_a_run_whose_finalize_is_given_up_has_failed(sent):
    visit.iterate(rows(), args=(["end"],), finalize=end)
    run_queued(errors="collect")
    assert [one[:2] for one in sent] == [("started", "running"), ("failed", "failed")]
    assert "the end is broken" in sent[1][2]


def test_a_change_that_is_rolled_back_sends_nothing(sent):
    run = visit.iterate(rows())
    with transaction.atomic():
        run.pause()
        transaction.set_rollback(True)
    assert sent == []


def test_a_receiver_that_fails_does_not_stop_the_run(sent):
    def broken(**kwargs):
        raise RuntimeError("of the receiver")

    for name in NAMES:
        getattr(signals, f"iteration_{name}").connect(broken)
    try:
        run = visit.iterate(rows(), finalize=end)
        run_queued()
    finally:
        for name in NAMES:
            getattr(signals, f"iteration_{name}").disconnect(broken)
    assert run.refresh().state == "finished"
