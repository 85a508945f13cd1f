"""The page of calls: it finds one, lists what waits, and cancels after a question."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from django.contrib.admin.models import LogEntry
from django.test import Client

from cloudtask import chain, task
from cloudtask.models import OutboxMessage
from cloudtask.stores import Store
from cloudtask.testing import run_queued
from tests.dashboard.test_actions import post, said
from tests.dashboard.test_pages import PLACES, address, page

pytestmark = pytest.mark.django_db(databases="__all__")

called: list[object] = []


@task(cancellable=True)
def remind(number: int, password: str = "") -> int:
    called.append(number)
    return number


@pytest.fixture(autouse=True)
def _nothing_called() -> None:
    called.clear()


@pytest.mark.parametrize("place", PLACES)
def test_a_call_is_found_and_cancelled_after_a_question(
    store: Store, visitor: Callable[..., Client], place: str
) -> None:
    receipt = remind.using(countdown=60).defer(7, password="hunter2")
    client, url = visitor(), address("call", "", place) + f"?id={receipt.id}"

    text = page(client, url)
    question = post(client, url, "cancel").content.decode()
    assert "queued" in text
    assert "number=7, password=" in text
    assert "hunter2" not in text
    assert f"Cancel the call {receipt.id}?" in question
    assert "csrfmiddlewaretoken" in question

    answer = post(client, url, "cancel", confirmed="1")

    assert f"{receipt.id}: prevented. That means: it does not begin." in said(answer)
    assert "cancelled" in page(client, url)
    assert 'value="cancel"' not in page(client, url)
    run_queued()
    assert called == []
    entry = LogEntry.objects.latest("action_time")
    assert "prevented" in entry.change_message


def test_a_chain_is_cancelled_at_its_current_step(
    store: Store, visitor: Callable[..., Client]
) -> None:
    receipt = chain(remind.s(1), remind.s(), remind.s()).defer()
    run_queued(recursive=False)
    client, url = visitor(), address("call") + f"?id={receipt.id}"

    assert "Step" in page(client, url)
    assert "requested" in said(post(client, url, "cancel", confirmed="1"))
    run_queued()
    assert called == [1]


def test_a_call_that_is_over_can_not_be_cancelled(
    store: Store, visitor: Callable[..., Client]
) -> None:
    receipt = remind.using(keep_result=3600).defer(1)
    run_queued()
    client, url = visitor(), address("call") + f"?id={receipt.id}"

    assert "succeeded" in page(client, url)
    assert "too late" in said(post(client, url, "cancel", confirmed="1"))
    unknown = address("call") + f"?id={'0' * 32}"
    assert "Nothing of this id is left" in page(client, unknown)
    assert "Nothing waits" in said(post(client, unknown, "cancel", confirmed="1"))
    assert "no such action" in said(post(client, url, "burn"))


def test_the_tasks_of_a_queue_are_listed(
    store: Store, visitor: Callable[..., Client]
) -> None:
    receipts = [remind.using(transactional=False).defer(n) for n in range(3)]

    client = visitor("view_call")
    text = page(client, address("call") + "?queue=default")

    assert all(receipt.id in text for receipt in receipts)
    empty = page(client, address("call") + "?queue=other")
    assert "No task waits in other" in empty


def test_a_message_of_the_outbox_has_the_button_too(
    db: None, visitor: Callable[..., Client]
) -> None:
    receipt = remind.defer(1)
    assert OutboxMessage.objects.filter(pk=receipt.id).exists()
    url = address("outbox") + "?show=waiting"
    formaction = f'formaction="{address("call")}?id={receipt.id}"'

    assert formaction in page(visitor(), url)


def test_looking_is_not_cancelling(
    store: Store, visitor: Callable[..., Client]
) -> None:
    receipt = remind.defer(1, password="hunter2")
    client = visitor("view_call", "view_outbox")
    url = address("call") + f"?id={receipt.id}"

    text = page(client, url)

    assert 'value="cancel"' not in text
    assert "number=1" not in text  # arguments need a right of their own
    assert post(client, url, "cancel", confirmed="1").status_code == 403
    assert "formaction" not in page(client, address("outbox") + "?show=waiting")


def test_the_button_needs_the_token_of_a_form(
    db: None, visitor: Callable[..., Client]
) -> None:
    receipt = remind.defer(1)
    strict = Client(enforce_csrf_checks=True)
    strict.cookies = visitor().cookies

    url = address("call") + f"?id={receipt.id}"
    answer = post(strict, url, "cancel", confirmed="1")

    assert answer.status_code == 403
    assert b"CSRF" in answer.content
