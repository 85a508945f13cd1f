"""Fixtures: people with rights, and both stores."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from django.conf import settings as django_settings
from django.contrib.auth.models import Permission, User
from django.db import connections
from django.test import Client, override_settings
from pytest_django.live_server_helper import LiveServer

from cloudtask import conf, queues, stores
from cloudtask.stores import Store
from cloudtask.stores.datastore import DatastoreStore
from tests.dashboard.browsing import chromium
from tests.stores.datastore_fixtures import empty_place


@pytest.fixture(autouse=True)
def _urls(settings: Any) -> None:
    settings.ROOT_URLCONF = "tests.dashboard.urls"
    queues.forget_cached()


@pytest.fixture
def datastore(datastore_at: Callable[[str], Any]) -> Store:
    """The store in an empty namespace of an emulator."""
    datastore_at("firestore")
    return DatastoreStore(empty_place(), sleep=lambda seconds: None)


@pytest.fixture(params=["database", "datastore"])
def store(request: Any, db: None, monkeypatch: Any) -> Store:
    """The store of the project: each test runs with both."""
    if request.param == "database":
        return stores.store()
    made = request.getfixturevalue("datastore")
    monkeypatch.setattr(stores, "_made", lambda settings: made)
    return made


@pytest.fixture
def visitor(db: None) -> Callable[..., Client]:
    """A client of a member of the staff who has some rights, or all."""

    def made(*names: str, is_staff: bool = True) -> Client:
        user = User.objects.create_user("ann", is_staff=is_staff)
        rights = Permission.objects.filter(content_type__app_label="cloudtask")
        if names:
            rights = rights.filter(codename__in=names)
        user.user_permissions.set(rights)
        client = Client()
        client.force_login(user)
        return client

    return made


@pytest.fixture
def configure(settings: Any) -> Callable[..., None]:
    def configured(**changes: Any) -> None:
        settings.CLOUDTASK = {**getattr(settings, "CLOUDTASK", {}), **changes}
        conf.settings.cache_clear()

    return configured


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """One browser for all tests of a module."""
    with chromium() as made:
        yield made
        # Those of this thread while the loop of Playwright runs in it: asgiref keeps
        # them apart from the others, and nothing else closes them.
        connections.close_all()


@pytest.fixture(scope="module")
def server(
    browser: Any, django_db_setup: None, django_db_blocker: Any
) -> Iterator[LiveServer]:
    """A server of the pages with a strict Content-Security-Policy.

    It comes after the browser, so that it shares the connections of the tests.
    """
    changes = {
        "ROOT_URLCONF": "tests.dashboard.urls",
        "ALLOWED_HOSTS": ["*"],  # without the host no Origin is trusted
        "MIDDLEWARE": [*django_settings.MIDDLEWARE, "tests.dashboard.policy.strict"],
    }
    with django_db_blocker.unblock(), override_settings(**changes):
        made = LiveServer("127.0.0.1:0")
        yield made
        made.stop()
