"""Context of the caller is there in each attempt, wherever the call has been."""

from __future__ import annotations

import asyncio
import threading

import pytest
from django.core.management import call_command
from django.db import transaction
from django.test import AsyncClient
from django.utils import translation

from cloudtask import call, iteration
from cloudtask.backend.library import task as django_task
from cloudtask.deferred import defer
from cloudtask.delivering import failed
from cloudtask.envelope import seal, unseal
from cloudtask.models import OutboxMessage
from cloudtask.stores import store
from cloudtask.testing import arun_queued, eager, run_queued
from cloudtask.transports import memory
from tests.carriers import context
from tests.carriers.context import asee, leave_changed, see, see_and_defer, seen, tenant
from tests.support import clock
from tests.testapp.models import Author

pytestmark = pytest.mark.django_db(databases="__all__")


@pytest.fixture(autouse=True)
def _carriers(carriers):
    pass


@pytest.fixture
def everywhere(anywhere, carriers):
    """Runs the test with each store."""
    carriers("Tenant", **anywhere)


def test_a_call_runs_in_the_context_of_its_caller(in_tenant):
    in_tenant("red")
    see.defer(1)
    in_tenant("blue")
    see.defer(2)
    in_tenant(None)
    see.defer(3)
    run_queued()
    assert seen == [("red", 1), ("blue", 2), (None, 3)]


def test_a_batch_is_captured_once_and_restored_for_each_call(in_tenant, carriers):
    carriers("Tenant", "Observer")
    in_tenant("red")
    see.defer_many([call(n) for n in range(3)])
    assert [note for note in context.Observer.notes if note == ("capture",)] == [
        ("capture",)
    ]
    in_tenant("blue")
    run_queued()
    assert seen == [("red", 0), ("red", 1), ("red", 2)]


def test_the_context_survives_the_outbox(in_tenant):
    in_tenant("red")
    with transaction.atomic():
        see.using(transactional=True).defer("outbox")
        in_tenant("blue")
    [row] = OutboxMessage.objects.all()
    assert b"red" in bytes(row.envelope)
    run_queued()
    assert seen == [("red", "outbox")]


@pytest.mark.django_db(transaction=True)
def test_a_relay_in_another_context_sends_what_was_captured(in_tenant, monkeypatch):
    in_tenant("red")
    monkeypatch.setattr(memory.MemoryTransport, "send", _unavailable)
    with transaction.atomic():
        see.defer("relayed")
    monkeypatch.undo()
    OutboxMessage.objects.update(due_at="2020-01-01T00:00:00Z")
    in_tenant("blue")
    call_command("cloudtask_relay", "--database", "default")
    run_queued()
    assert seen == [("red", "relayed")]


def _unavailable(self, message):
    raise ConnectionError("Cloud Tasks is down.")


def test_each_attempt_and_a_failed_task_tried_again_have_the_context(
    in_tenant, everywhere
):
    in_tenant("red")
    context.see_and_fail.defer()
    in_tenant("blue")
    run_queued(errors="retry")
    assert seen == [("red", 1), ("red", 2), ("red", 3)]

    [kept] = store().list_failed(task=None, limit=2)
    failed.retry(kept.key)
    run_queued(errors="collect")
    assert seen[3:] == [("red", 1)]


def test_a_successor_keeps_the_context(in_tenant):
    in_tenant("red")
    context.see_and_retry.defer()
    in_tenant("blue")
    run_queued()
    assert seen == [("red", 1), ("red", 2), ("red", 3)]


def test_a_task_that_a_task_defers_has_its_context(in_tenant):
    in_tenant("red")
    see_and_defer.defer()
    in_tenant("blue")
    run_queued()
    assert seen == [("red", "below")]


def test_rows_and_finalize_of_a_run_have_the_context_of_iterate(in_tenant, everywhere):
    for name in ("a", "b", "c"):
        Author.objects.create(name=name)
    in_tenant("red")
    context.see_row.iterate(Author.objects.all(), finalize=context.see_end, shards=2)
    in_tenant("blue")
    run_queued()
    assert {one for one, _ in seen} == {"red"}
    assert len(seen) == 4


def test_a_run_that_another_caller_resumes_keeps_its_context(in_tenant, everywhere):
    Author.objects.create(name="a")
    in_tenant("red")
    run = context.see_row.iterate(Author.objects.all(), finalize=context.see_end)
    run.pause()
    run_queued()
    in_tenant("blue")
    iteration.get(run.id).resume()
    run_queued()
    assert [one for one, _ in seen] == ["red", "red"]


def test_items_of_map_have_the_context(in_tenant, everywhere):
    in_tenant("red")
    see.map([1, 2])
    in_tenant("blue")
    run_queued()
    assert seen == [("red", 1), ("red", 2)]


def test_an_asynchronous_task_has_the_context(in_tenant):
    in_tenant("red")
    asee.defer()
    in_tenant("blue")
    run_queued()
    assert seen == [("red", "async")]


@pytest.mark.django_db(transaction=True)
async def _deferred_from_a_coroutine() -> None:
    tenant.set("red")
    await asee.adefer()
    await see.adefer_many([call(1)])
    tenant.set("blue")
    await arun_queued()


@pytest.mark.django_db(transaction=True)
def test_asynchronous_code_captures_its_own_context():
    asyncio.run(_deferred_from_a_coroutine())
    assert seen == [("red", "async"), ("red", 1)]


@pytest.mark.django_db(transaction=True)
def test_threads_capture_their_own_contexts(in_tenant):
    def defer(name):
        tenant.set(name)
        see.defer(name)

    threads = [threading.Thread(target=defer, args=[name]) for name in "abcd"]
    for thread in threads:
        thread.start()
        thread.join()
    run_queued()
    assert sorted(seen) == [(name, name) for name in "abcd"]


def test_calls_of_deferred_and_of_djangos_tasks_have_the_context(in_tenant):
    in_tenant("red")
    defer(context.note_tenant, "deferred")
    of_django.enqueue("django.tasks")
    in_tenant("blue")
    run_queued()
    assert sorted(seen) == [("red", "deferred"), ("red", "django.tasks")]


@django_task
def of_django(name):
    context.note_tenant(name)


@pytest.mark.django_db(transaction=True)
def test_an_asgi_server_restores_the_context_in_the_thread_of_the_task(in_tenant):
    in_tenant("red")
    see.defer("asgi")
    asee.defer()
    in_tenant("blue")
    for entry in [memory.queue().pop(), memory.queue().pop()]:
        asyncio.run(_delivered_by_asgi(entry))
    assert seen == [("red", "asgi"), ("red", "async")]
    assert tenant.get() == "blue"


async def _delivered_by_asgi(entry):
    answer = await AsyncClient().post(
        f"/_cloudtask/run/{entry.message.task}",
        entry.body,
        content_type="application/octet-stream",
        headers={"X-AppEngine-QueueName": "default"},
    )
    assert answer.status_code == 200


def test_a_lost_step_that_a_relay_makes_again_has_the_context(in_tenant):
    Author.objects.create(name="a")
    in_tenant("red")
    context.see_row.iterate(Author.objects.all(), finalize=context.see_end)
    in_tenant("blue")
    _lose_what_waits()
    clock.move(3600)
    assert iteration.sweep() == 1
    run_queued()
    assert [one for one, _ in seen] == ["red", "red"]


def _lose_what_waits():
    OutboxMessage.objects.all().delete()
    while memory.queue().pop() is not None:
        pass


def test_eager_calls_have_the_context(in_tenant):
    in_tenant("red")
    with eager():
        see.defer("now")
        see_and_defer.defer()
        assert tenant.get() == "red"
    assert seen == [("red", "now"), ("red", "below")]


def test_calls_by_http_have_the_context(in_tenant):
    in_tenant("red")
    see.defer("http")
    in_tenant("blue")
    run_queued(via="http")
    assert seen == [("red", "http")]
    assert tenant.get() == "blue"


def test_a_task_that_leaves_the_context_changed_changes_no_other(in_tenant):
    in_tenant("red")
    leave_changed.defer()
    see.defer(1)
    run_queued()
    assert seen == [("red", 1)]
    assert tenant.get() == "red"


def test_large_arguments_in_the_store_leave_the_context_in_the_task(
    in_tenant, everywhere
):
    in_tenant("red")
    see.defer("x" * 1_100_000)
    in_tenant("blue")
    run_queued()
    assert [one for one, _ in seen] == ["red"]


def test_the_language_of_the_caller_is_carried(carriers):
    carriers("cloudtask.carriers.Language")
    with translation.override("sk"):
        language.defer()
    language.defer()
    run_queued()
    assert seen == ["sk", "en-us"]


@context.task
def language():
    seen.append(translation.get_language())


def test_a_message_is_sealed_with_its_context_and_does_not_show_it(in_tenant):
    in_tenant("crimson")
    see.using(transactional=False).defer(1)
    entry = memory.queue().pop()
    message = unseal(entry.body, now=0.0)
    assert message.carried == '{"tenant":{"id":"crimson"}}'
    assert "crimson" not in repr(message)
    assert unseal(seal(message), now=0.0) == message
