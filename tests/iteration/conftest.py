from __future__ import annotations

from collections.abc import Iterator

import pytest
from django.test import override_settings

from cloudtask.iteration import stopping
from cloudtask.stores import store
from cloudtask.testing import run_queued
from tests.iteration.models import Thing
from tests.iteration.tasks import trace
from tests.iteration.world import World
from tests.stores.datastore_fixtures import KINDS, empty_store
from tests.support import clock


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    """Forget earlier calls, and stop the clock of legs and plans.

    Only a test moves that clock, so the speed of the machine decides nothing.
    """
    trace.clear()
    with clock.virtual():
        yield
    stopping._asked.clear()
    trace.clear()


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture(params=["database", *KINDS])
def any_store(request: pytest.FixtureRequest, db: None) -> Iterator[str]:
    """Each store in turn, as the settings have it; Datastore in both emulators."""
    if request.param == "database":
        yield "database"
        return
    request.getfixturevalue("datastore_at")(request.param)
    with override_settings(CLOUDTASK={"STORE": empty_store()}):
        store()
        yield request.param


@pytest.fixture
def things(db: None):
    """Makes rows with the keys 1 to n."""

    def make(count: int) -> list[int]:
        Thing.objects.bulk_create(Thing(id=n) for n in range(1, count + 1))
        return list(range(1, count + 1))

    return make


__all__ = ["run_queued"]
