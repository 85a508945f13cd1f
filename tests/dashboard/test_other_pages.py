"""Pages of schedules, groups and results."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from cloudtask import Schedule
from cloudtask.models import OutboxMessage
from cloudtask.schedules import declare
from cloudtask.schedules.declared import _declared
from cloudtask.stores import Store
from cloudtask.stores.results import ResultState, StoredResult
from tests.dashboard import seeding
from tests.dashboard.test_actions import post, said
from tests.dashboard.test_pages import PLACES, address, page
from tests.testapp.tasks import note

pytestmark = pytest.mark.django_db(databases="__all__")

KEYS = ["hourly", "nightly"]


@pytest.fixture
def schedules() -> Iterator[list[str]]:
    """Two schedules of one task, and no others."""
    before = dict(_declared)
    _declared.clear()
    made = [
        Schedule(timedelta(hours=1), key="hourly", args=("x",)),
        Schedule("30 2 * * *", key="nightly", args=("x",), enabled=False),
    ]
    declare(note._self_definition, made)
    yield KEYS
    _declared.clear()
    _declared.update(before)


@pytest.mark.usefixtures("schedules")
@pytest.mark.parametrize("place", PLACES)
def test_schedules_are_shown_with_their_next_moment(
    visitor: Callable[..., Client], place: str
) -> None:
    text = page(visitor("view_schedule"), address("schedule", place=place))

    assert "hourly" in text
    assert "30 2 * * * Europe/Bratislava" in text
    assert ":00 CE" in text  # the next full hour, in the zone of the project
    assert "disabled" in text
    assert "Run now" not in text


@pytest.mark.usefixtures("schedules")
def test_schedules_are_read_by_one_query(visitor: Callable[..., Client]) -> None:
    client = visitor()
    page(client, address("schedule"))
    with CaptureQueriesContext(connection) as captured:
        page(client, address("schedule"))
        texts = [query["sql"] for query in captured]

    assert sum("cloudtask_schedulerow" in text for text in texts) == 1


@pytest.mark.usefixtures("schedules")
def test_a_schedule_is_switched_and_run(visitor: Callable[..., Client]) -> None:
    client, url = visitor(), address("schedule")

    assert "hourly is disabled" in said(post(client, url, "disable:hourly"))
    assert "nightly is enabled" in said(post(client, url, "enable:nightly"))
    assert "a call is enqueued as" in said(post(client, url, "run:hourly"))

    assert OutboxMessage.objects.count() == 1
    assert LogEntry.objects.count() == 3
    assert page(client, url).count("disable:") == 1


@pytest.mark.usefixtures("schedules")
def test_a_schedule_needs_its_right_and_must_be_known(
    visitor: Callable[..., Client], configure: Callable[..., None]
) -> None:
    client, url = visitor(), address("schedule")

    assert "no such schedule" in said(post(client, url, "run:gone"))
    assert "no such schedule" in said(post(client, url, "burn:hourly"))
    configure(DASHBOARD_READ_ONLY=True)
    assert post(client, url, "run:hourly").status_code == 403
    assert OutboxMessage.objects.count() == 0


def test_groups_are_shown_with_their_members(
    store: Store, visitor: Callable[..., Client]
) -> None:
    seeding.group_of(store, "open-one", values=2)
    seeding.group_of(store, "done-one", values=3)
    store.finish_group("done-one")

    text = page(visitor("view_group"), address("group"))

    assert "2 of 3" in text
    assert "3 of 3" in text
    assert text.index("done-one") < text.index("open-one")


def test_a_kept_result_is_listed_and_shown_without_its_value(
    store: Store, visitor: Callable[..., Client]
) -> None:
    made = StoredResult(
        id="kept",
        task=seeding.TASK,
        queue="mail",
        state=ResultState.SUCCEEDED,
        value=b"a secret",
        enqueued_at=datetime(2026, 1, 2, tzinfo=UTC),
    )
    store.save_result(made, timedelta(days=1))
    client = visitor("view_result")
    own = "" if "Database" in type(store).__name__ else "?of=store"

    text = page(client, address("result") + own)
    one = page(client, address("result", "kept"))

    assert address("result", "kept") in text
    assert "keep_result" in one
    assert "a secret" not in one
    assert "Attempts" not in one


def broken(*args: Any, **kwargs: Any) -> Any:
    from cloudtask.exceptions import EnqueueUnavailable

    raise EnqueueUnavailable("The database 'default' failed: no route")


@pytest.mark.parametrize(
    ("method", "url", "verb"),
    [
        ("load_run", address("iteration", f"{1:032x}"), "pause"),
        ("load_run", address("iteration", f"{1:032x}"), "retry"),
        ("page_failed", address("failed"), "retry-all"),
        ("load_failed", address("failed", "f1"), "retry"),
        ("page_groups", address("group"), ""),
    ],
)
def test_a_store_that_is_lost_during_an_action_is_a_sentence(
    visitor: Callable[..., Client],
    monkeypatch: pytest.MonkeyPatch,
    method: str,
    url: str,
    verb: str,
) -> None:
    from cloudtask import stores

    seeding.everything(stores.store())
    client = visitor()
    monkeypatch.setattr(type(stores.store()), method, broken)

    answer = post(client, url, verb) if verb else client.get(url)

    told = said(answer) + answer.content.decode()
    assert answer.status_code in (302, 503)
    assert "no route" in told


def test_one_row_that_cannot_be_read_keeps_no_other_back(
    visitor: Callable[..., Client],
) -> None:
    from cloudtask import stores
    from tests.dashboard.test_actions import failure

    store = stores.store()
    good = failure(store)
    seeding.failed_call(store, "bad")

    text = said(post(visitor(), address("failed"), "retry", key=["bad", good]))

    assert "1 enqueued again." in text
    assert "1 not: bad:" in text
    assert store.load_failed("bad") is not None
    assert store.load_failed(good) is None


def test_a_run_that_is_gone_is_explained(visitor: Callable[..., Client]) -> None:
    client, url = visitor(), address("iteration", f"{9:032x}")

    text = page(client, url, 404)
    late = post(client, url, "pause")

    assert "Without keep=True it is deleted" in text
    assert late.status_code == 302
    assert "There is no iteration" in said(late)
