"""Pages: each is shown in each place, with both stores, and nothing breaks them."""

from __future__ import annotations

import re
from collections.abc import Callable
from html.parser import HTMLParser
from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext

from cloudtask import stores
from cloudtask.exceptions import EnqueueUnavailable
from cloudtask.models import OutboxMessage
from cloudtask.runs import RunState
from cloudtask.sending import waiting
from cloudtask.stores import Store
from tests.dashboard import seeding

pytestmark = pytest.mark.django_db(databases="__all__")

RUN = f"{1:032x}"
PLACES = {
    "admin": "/admin/cloudtask/{model}/",
    "other": "/other/cloudtask/{model}/",
    "alone": "/tasks/{model}/",
}
LISTS = (
    "overview",
    "iteration",
    "failed",
    "outbox",
    "call",
    "queue",
    "task",
    "schedule",
    "group",
    "result",
    "doctor",
)
THINGS = {"iteration": RUN, "failed": "f2", "result": "r1"}


class Inline(HTMLParser):
    """Collects what a strict Content-Security-Policy refuses."""

    def __init__(self) -> None:
        super().__init__()
        self.inline: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        if tag == "style" or (tag == "script" and "src" not in names):
            self.inline.append(tag)
        self.inline += [n for n in names if n == "style" or n.startswith("on")]


def address(model: str, key: str = "", place: str = "admin") -> str:
    folder = PLACES[place].format(model=model)
    if place == "alone" and model == "overview":
        folder = "/tasks/"
    return f"{folder}{key}/change/" if key else folder


def page(client: Client, url: str, status: int = 200, **options: Any) -> str:
    response = client.get(url, **options)
    assert response.status_code == status, (url, response.status_code)
    return response.content.decode()


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("model", LISTS)
def test_each_list_is_shown_empty_and_filled_in_each_place(
    store: Store, visitor: Callable[..., Client], place: str, model: str
) -> None:
    client = visitor()
    assert "ct-page" in page(client, address(model, place=place))

    seeding.everything(store)
    text = page(client, address(model, place=place))

    assert seeding.HTML not in text
    assert "<script>alert" not in text


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("model", THINGS)
def test_each_thing_has_a_page_in_each_place(
    store: Store, visitor: Callable[..., Client], place: str, model: str
) -> None:
    client = visitor()
    seeding.everything(store)

    text = page(client, address(model, THINGS[model], place))

    assert "<script>alert" not in text
    for link in re.findall(r'<nav class="ct-nav".*?</nav>', text, re.DOTALL):
        for url in re.findall(r'href="([^"]+)"', link):
            page(client, url)


@pytest.mark.parametrize("model", THINGS)
def test_an_unknown_id_is_explained(
    store: Store, visitor: Callable[..., Client], model: str
) -> None:
    client = visitor()
    for key in ("nobody", "x" * 500, "%3Cb%3E", "a%00b"):
        text = page(client, address(model, key), 404)
        if key == "nobody":
            assert "There is no" in text


@pytest.mark.exhaustive(sample=3)
@pytest.mark.parametrize("model", LISTS)
@pytest.mark.parametrize(
    "query",
    [
        "?before=x&after=x&of=nowhere",
        "?before=0000-00-00%2000:00:00|k",
        "?task=%00&state=%00&kind=%00&group=%00&status=%00&queue=%00",
        "?state=nonsense&age=nonsense&show=nonsense&task=" + "x" * 3000,
        "?task=%F0%9F%98%80&kind='%20OR%201=1",
    ],
)
def test_a_url_that_somebody_has_changed_breaks_no_list(
    store: Store, visitor: Callable[..., Client], model: str, query: str
) -> None:
    seeding.everything(store)

    page(visitor(), address(model) + query)


def test_no_page_has_inline_scripts_or_styles(
    store: Store, visitor: Callable[..., Client]
) -> None:
    client = visitor()
    seeding.everything(store)
    urls = [address(model, place="alone") for model in LISTS]
    urls += [address(model, key, "alone") for model, key in THINGS.items()]
    for url in urls:
        found = Inline()
        found.feed(page(client, url))
        assert found.inline == [], url


def test_the_list_of_an_admin_site_leads_to_the_pages(
    store: Store, visitor: Callable[..., Client]
) -> None:
    text = page(visitor(), "/admin/")

    for model in LISTS:
        assert address(model) in text


# Live


def test_a_fragment_is_the_regions_and_is_sent_once(
    store: Store, visitor: Callable[..., Client]
) -> None:
    client = visitor()
    run_id = seeding.run_of(store, 1, RunState.PAUSED)
    url = address("iteration", run_id) + "?fragment=1"

    first = client.get(url)
    again = client.get(url, headers={"If-None-Match": first["ETag"]})
    seeding.failed_row(store, run_id, "17")
    changed = client.get(url, headers={"If-None-Match": first["ETag"]})

    text = first.content.decode()
    assert "data-live" in text
    assert "<html" not in text
    assert "csrfmiddlewaretoken" not in text
    assert again.status_code == 304
    assert changed.status_code == 200


# A store that is unavailable


def broken(*args: Any, **kwargs: Any) -> Any:
    raise EnqueueUnavailable("Listing in the database 'default' failed: no route")


@pytest.mark.parametrize("place", PLACES)
def test_a_store_that_is_unavailable_is_a_sentence(
    visitor: Callable[..., Client], monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    client = visitor()
    for name in ("page_runs", "page_failed", "load_run", "load_failed", "upkeep"):
        monkeypatch.setattr(type(stores.store()), name, broken)
    for url in [
        *(address(model, place=place) for model in ("overview", "iteration", "failed")),
        address("iteration", RUN, place),
        address("failed", "f1", place),
    ]:
        text = page(client, url, 503)
        assert "no route" in text
        assert "ct-nav" in text


def test_one_outbox_that_is_unavailable_leaves_the_others(
    visitor: Callable[..., Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    client = visitor()
    seeding.outbox_row("o1", error="refused by the queue")
    counts = waiting.counts

    def counted(alias: str) -> waiting.OutboxCounts:
        if alias == "other":
            from django.db import OperationalError

            raise OperationalError("connection refused")
        return counts(alias)

    monkeypatch.setattr(waiting, "counts", counted)

    text = page(client, address("outbox"))

    assert "refused by the queue" in text
    assert "connection refused" in text


def test_the_overview_is_not_calm_while_rows_have_failed(
    store: Store, visitor: Callable[..., Client]
) -> None:
    client, run_id = visitor(), seeding.run_of(store, 1)
    calm = "Nothing failed, nothing waits for you."
    assert calm in page(client, address("overview"))
    seeding.failed_row(store, run_id, "17")

    text = page(client, address("overview"))

    assert calm not in text
    assert "failed rows" in text


# Queries


def queries(client: Client, url: str) -> int:
    """The queries of a page about tables of the library."""
    page(client, url)  # fills what is kept, such as content types
    with CaptureQueriesContext(
        connection,
    ) as captured:
        page(client, url)
    ours = [q for q in captured.captured_queries if '"cloudtask_' in _text(q)]
    return len(ours)


def _text(query: dict[str, str]) -> str:
    return query["sql"].replace("`", '"')


@pytest.mark.parametrize("model", LISTS)
def test_a_list_takes_as_many_queries_for_one_as_for_many(
    visitor: Callable[..., Client], model: str
) -> None:
    client, store = visitor(), stores.store()

    def grow(start: int, end: int) -> None:
        for number in range(start, end):
            run_id = seeding.run_of(store, number)
            seeding.failed_row(store, run_id, f"{number}")
            seeding.failed_call(store, f"f{number}", group=f"g{number}")
            seeding.outbox_row(f"o{number}")
            seeding.outbox_row(f"w{number}", parked=False)
            seeding.result(f"r{number}")
            seeding.group_of(store, f"g{number}", values=1)

    grow(1, 2)
    few = queries(client, address(model))
    grow(2, 12)
    many = queries(client, address(model))

    assert few == many <= 6


def test_one_iteration_takes_five_queries(visitor: Callable[..., Client]) -> None:
    client, store = visitor(), stores.store()
    run_id = seeding.run_of(store, 1)
    seeding.failed_row(store, run_id, "17")

    assert queries(client, address("iteration", run_id)) <= 5
    assert OutboxMessage.objects.count() == 0
