"""A marked secret is looked for wherever a user of the library could see it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.test import override_settings

from cloudtask import conf
from tests.secrecy import reporters
from tests.secrecy.journeys import (
    JOURNEYS,
    KEY,
    MARK,
    Broken,
    Hidden,
    Journey,
    Watch,
    breaking,
    commands,
    deliver_all,
    failing,
    iterating,
    lists,
    passing,
    watching,
)
from tests.stores.datastore_fixtures import empty_store

pytestmark = pytest.mark.django_db(transaction=True, databases=["default", "other"])
DATABASE = {"BACKEND": conf.DATABASE_STORE}


def settings(store: dict[str, Any]) -> dict[str, Any]:
    return {
        "PROJECT": "p",
        "LOCATION": "l",
        "RELAY_TOKEN": KEY,
        "MAX_TASK_SIZE": 20_000,
        "STORE": store,
        "QUEUES": {"default": {}, "bulk": {"spread": 3}},
        "TARGET": {
            "BACKEND": "cloudtask.targets.HttpTarget",
            "URL": "https://app.example",
            "SERVICE_ACCOUNT": "tasks@p.iam.gserviceaccount.com",
        },
        "TRUSTED_MODULES": ["tests.secrecy"],
    }


@pytest.fixture(params=["database", "firestore"])
def _site(request: pytest.FixtureRequest) -> Iterator[None]:
    store = DATABASE
    if request.param != "database":
        request.getfixturevalue("datastore_at")(request.param)
        store = empty_store()
    with override_settings(
        CLOUDTASK=settings(store),
        SECRET_KEY=KEY,
        SECRET_KEY_FALLBACKS=[f"old {KEY}"],
        ROOT_URLCONF="tests.dashboard.urls",
    ):
        yield


def given() -> tuple[Hidden, Hidden]:
    args = (MARK, {"note": MARK, MARK: 1}, [MARK, (MARK,)])
    return Hidden(args), Hidden({"body": MARK, "deep": {"a": [{"b": MARK}]}})


def travel(
    watch: Watch, journey: Journey, look: Callable[[Watch], None] | None = None
) -> None:
    journey(watch, *given())
    deliver_all(watch)
    if look is not None:
        look(watch)
    commands(watch)


@pytest.mark.usefixtures("_site")
@pytest.mark.parametrize("journey", JOURNEYS, ids=lambda one: one.__name__)
def test_no_secret_is_seen(journey: Journey) -> None:
    with watching() as watch:
        travel(watch, journey, lists)


PARTS = 5  # of the points at which a journey is broken; each is a case


@pytest.mark.exhaustive(sample=7)
@pytest.mark.usefixtures("_site")
@pytest.mark.parametrize("part", range(PARTS))
@pytest.mark.parametrize("journey", JOURNEYS, ids=lambda one: one.__name__)
def test_no_secret_is_seen_whatever_raises(
    journey: Journey, part: int, one_in: Callable[[int, list[str]], list[str]]
) -> None:
    with watching() as watch, passing() as passed:
        travel(watch, journey)
    points = one_in(2, sorted(passed)[part::PARTS])
    raised: list[Broken] = []
    for point in points:
        with watching() as watch, breaking(point) as broken:
            travel(watch, journey)
            raised += broken
    assert bool(raised) == bool(points)  # Datastore takes no atomic="row"


@pytest.mark.usefixtures("_site")
@pytest.mark.parametrize("journey", [failing, iterating], ids=lambda one: one.__name__)
def test_error_reporters_show_no_secret(journey: Journey) -> None:
    with watching() as watch:
        travel(watch, journey)
    kinds = {type(error): error for error in watch.all_errors()}
    assert kinds
    for error in kinds.values():
        for name, text in reporters.shown(error).items():
            assert MARK not in text, name
