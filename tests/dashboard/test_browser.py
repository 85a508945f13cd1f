"""Pages in Chromium: a strict policy, accessibility, live regions, keyboard and phone.

Without Chromium these tests are skipped, and fail in CI.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.contrib.auth.models import User

from cloudtask import stores
from cloudtask.runs import RunState
from cloudtask.stores import Store
from tests.dashboard import seeding
from tests.dashboard.browsing import CHROMIUM, Window
from tests.dashboard.test_pages import LISTS, PLACES, THINGS, address

pytestmark = [
    pytest.mark.django_db(transaction=True, databases="__all__"),
    pytest.mark.skipif(
        not CHROMIUM and not os.environ.get("CI"), reason="Chromium is not installed"
    ),
    pytest.mark.xdist_group("chromium"),
]

WCAG = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]
ALL = [(model, "") for model in LISTS] + [*THINGS.items()]
Open = Callable[..., Window]


@pytest.fixture
def window(browser: Any, server: Any, transactional_db: None) -> Iterator[Open]:
    """Opens windows of a superuser. At the end nothing may have gone wrong in one."""
    user = User.objects.create_superuser("ann", password="ann")
    opened: list[Window] = []

    def made(**options: Any) -> Window:
        opened.append(Window(browser, server.url, user, **options))
        return opened[-1]

    yield made
    found = [one.problems + one.violations() for one in opened]
    for one in opened:
        one.context.close()
    assert found == [[] for _ in opened]


def axe(page: Any) -> list[str]:
    """What axe finds within our pages; the admin around them is Django's."""
    from axe_playwright_python.sync_playwright import (  # type: ignore[import-untyped]
        Axe,
    )

    options = {"runOnly": {"type": "tag", "values": WCAG}}
    found = Axe().run(page, context=".ct-page", options=options)
    return [
        f"{one['id']}: {node['html'][:200]}"
        for one in found.response["violations"]
        for node in one["nodes"]
    ]


@pytest.mark.exhaustive(sample=24)
@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("place", ["alone", "admin", "other"])
def test_pages_are_accessible_and_fit_the_screen(
    window: Open, store: Store, place: str, scheme: str, width: int
) -> None:
    seeding.everything(store)
    viewport = {"width": width, "height": 800}
    opened = window(color_scheme=scheme, viewport=viewport)
    for model, key in ALL:
        opened.page.goto(address(model, key, place))
        if model == "doctor":
            opened.page.locator("button.ct-primary").click()
            opened.page.wait_for_selector(".ct-table")
        assert axe(opened.page) == [], (model, key)
        overflow = opened.page.evaluate(
            "document.querySelector('.ct-page').scrollWidth"
            " - document.querySelector('.ct-page').clientWidth"
        )
        assert overflow <= 0, (model, key)
        assert opened.violations() == []


@pytest.mark.parametrize("place", PLACES)
def test_a_run_refreshes_itself_and_keeps_what_a_person_has_opened(
    window: Open, place: str
) -> None:
    store = stores.store()
    run_id = seeding.run_of(store, 1)
    seeding.failed_row(store, run_id, "17")
    page = window().page
    page.goto(address("iteration", run_id, place))
    page.locator("summary").click()
    state = page.locator("#ct-run .ct-state").first
    assert state.inner_text() == "running"

    store.change_run(run_id, to=RunState.PAUSED, only_from=list(RunState))

    page.wait_for_selector("#ct-run .ct-state.ct-paused")
    assert page.locator("details[open]").count() == 1
    assert "Changed at" in page.locator("[data-ct-announce]").inner_text()
    assert page.locator("button[value=resume]").count() == 1


def test_a_run_is_paused_with_the_keyboard_alone(window: Open) -> None:
    store = stores.store()
    run_id = seeding.run_of(store, 1)
    page = window().page
    page.goto(address("iteration", run_id, "alone"))

    for _ in range(40):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.value") == "pause":
            break
    page.keyboard.press("Enter")
    page.wait_for_selector(".messagelist")

    assert page.evaluate("document.activeElement.className") == "messagelist"
    assert store.load_run(run_id).state is RunState.PAUSED


def test_failed_tasks_are_discarded_after_a_question(window: Open) -> None:
    store = stores.store()
    for key in ("f1", "f2", "f3"):
        seeding.failed_call(store, key)
    page = window().page
    page.goto(address("failed"))

    page.locator("[data-ct-all]").check()
    page.locator("button[value=discard]").click()
    page.locator(".ct-panel button[type=submit]").click()
    page.wait_for_selector(".ct-empty")

    assert store.count_failed() == 0


def test_everything_works_without_script(window: Open) -> None:
    store = stores.store()
    seeding.everything(store)
    page = window(java_script_enabled=False).page
    page.goto(address("failed", place="alone"))
    assert not page.locator("[data-ct-all]").is_visible()

    page.locator("input[name=key][value=f1]").check()
    page.locator("button[value=discard]").click()
    page.locator(".ct-panel button[type=submit]").click()

    assert "1 discarded" in page.locator(".messagelist").inner_text()
    assert store.load_failed("f1") is None


def test_a_paused_refresh_asks_for_nothing(window: Open) -> None:
    store = stores.store()
    run_id = seeding.run_of(store, 1)
    page = window().page
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(address("iteration", run_id))
    page.locator("#ct-interval").select_option("0")
    before = [url for url in asked if "fragment" in url]
    page.wait_for_timeout(2_500)

    assert [url for url in asked if "fragment" in url] == before
    assert page.locator("[data-ct-live-state]").inner_text() == "Paused"
