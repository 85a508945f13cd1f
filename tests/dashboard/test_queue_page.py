"""The page of queues, against our emulator."""

from __future__ import annotations

import io
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.core.management import call_command
from django.test import Client
from pytest_mock import MockerFixture

from cloudtask import conf, queues
from cloudtask.emulator import Emulator
from cloudtask.queues import listing
from cloudtask.transports.cloud.client import clients
from tests.dashboard.test_actions import post, said
from tests.dashboard.test_pages import address, page
from tests.doctor import service

pytestmark = pytest.mark.django_db(databases="__all__")

MAIL = "projects/p/locations/l/queues/mail"


@pytest.fixture
def use(
    monkeypatch: pytest.MonkeyPatch, configure: Callable[..., None]
) -> Callable[[str], None]:
    """Lets the project use the Cloud Tasks at an address."""

    def used(host: str) -> None:
        monkeypatch.setenv("CLOUD_TASKS_EMULATOR_HOST", host)
        configure(
            PROJECT="p",
            LOCATION="l",
            TRANSPORT={"BACKEND": conf.CLOUD_TRANSPORT},
            QUEUES={"mail": {"concurrency": 3}, "gone": {}},
        )
        queues.forget_cached()

    return used


@pytest.fixture
def emulator(use: Callable[[str], None]) -> Iterator[Emulator]:
    with Emulator(port=0, target="http://127.0.0.1:9", queues=(MAIL,)) as running:
        use(running.address)
        yield running


@pytest.mark.usefixtures("emulator")
def test_declared_and_actual_stand_side_by_side(
    visitor: Callable[..., Client],
) -> None:
    client = visitor()

    text = page(client, address("queue"))
    overview = page(client, address("overview"))

    assert "differs: max attempts, max concurrent dispatches" in text
    assert "gives up in silence after 100 attempts" in text
    assert "missing" in text
    assert "Queue gone is missing" in overview
    assert "manage.py cloudtask_queues apply" in overview


@pytest.mark.usefixtures("emulator")
def test_a_queue_is_paused_resumed_and_purged(visitor: Callable[..., Client]) -> None:
    client, url = visitor(), address("queue")

    assert "'mail' is paused" in said(post(client, url, "pause:mail"))
    assert queues.list_queues()["mail"].state == "PAUSED"
    assert "resume:mail" in page(client, url)
    assert "'mail' sends again" in said(post(client, url, "resume:mail"))
    purged = post(client, url, "purge:mail", confirmed="1", typed="mail")
    assert "is being purged" in said(purged)
    assert "no such queue" in said(post(client, url, "pause:nobody"))


def test_the_page_shows_what_waits_by_one_request_for_all_queues(
    emulator: Emulator, visitor: Callable[..., Client], mocker: MockerFixture
) -> None:
    queues.pause("mail")
    task = {"http_request": {"url": "http://127.0.0.1:9/"}}
    for _ in range(3):
        clients.get().create_task(parent=MAIL, task=task)
    asked = mocker.spy(listing, "_asked")
    client = visitor()

    text = page(client, address("queue"))
    again = page(client, address("queue"))

    assert '<td data-label="Waiting" class="ct-num">3<span' in text
    assert "oldest due " in text
    assert "The service estimates" in text
    assert '<td data-label="Waiting" class="ct-num">3<span' in again
    assert asked.call_count == 1


def test_a_service_that_does_not_tell_what_waits_is_no_fault(
    use: Callable[[str], None], visitor: Callable[..., Client]
) -> None:
    with service.denying("no", ListQueues=service.queues_of(1)) as host:
        use(host)
        without = page(visitor(), address("queue"))

    assert 'data-label="Waiting" class="ct-num"><span class="ct-quiet">' in without


def test_a_service_that_is_slow_to_tell_what_waits_is_waited_for_once(
    use: Callable[[str], None],
    visitor: Callable[..., Client],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(listing, "SECONDS", 0.01)
    never, asked = threading.Event(), list[bool]()

    def slowly(request: bytes) -> Any:
        is_for_stats = b"stats" in request
        asked.append(is_for_stats)
        if is_for_stats:
            never.wait(60)
        return service.queues_of(1)(request)

    with service.denying("no", ListQueues=slowly) as host:
        use(host)
        client = visitor()
        text, again = (page(client, address("queue")) for _ in range(2))
        never.set()

    for one in (text, again):
        assert "The numbers of waiting tasks are unknown." in one
        assert "DEADLINE_EXCEEDED" in one
    assert asked == [False, True]


def test_a_right_that_is_missing_is_named(
    use: Callable[[str], None], visitor: Callable[..., Client]
) -> None:
    with service.denying("denied by IAM") as host:
        use(host)
        text = page(visitor(), address("queue"))

    assert "<code>cloudtasks.queues.list</code>" in text
    assert "pause:mail" not in text


@pytest.mark.usefixtures("emulator")
def test_a_queue_that_is_spread_leads_its_parts_and_is_paused_whole(
    visitor: Callable[..., Client], configure: Callable[..., None]
) -> None:
    configure(
        PROJECT="p",
        LOCATION="l",
        TRANSPORT={"BACKEND": conf.CLOUD_TRANSPORT},
        QUEUES={"mail": {}, "bulk": {"spread": 2, "rate": "400/s"}},
    )
    call_command("cloudtask_queues", "apply", "--yes", stdout=io.StringIO())
    client = visitor()

    text = page(client, address("queue"))
    paused = post(client, address("queue"), "pause:bulk")

    assert "spread over 2 queues" in text
    assert "800/s" in text
    assert "part of bulk" in text
    assert "is paused" in said(paused)
    found = queues.list_queues()
    states = [found[name].state for name in ("bulk-0", "bulk-1", "mail")]
    assert states == ["PAUSED", "PAUSED", "RUNNING"]
