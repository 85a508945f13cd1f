"""Every property of each entity is written by someone else; all readers read it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from django.test import override_settings
from google.cloud import datastore

from tests.stores.datastore_fixtures import PROJECT, empty_store
from tests.support import clock
from tests.tampering import tasks
from tests.tampering.site import SETTINGS, Site, undone
from tests.tampering.values import hostile

pytestmark = pytest.mark.django_db

NAMES = Path(__file__).parents[1] / "golden" / "names.txt"
PROPERTIES = sorted(
    {
        tuple(line.split()[0].split("."))
        for line in NAMES.read_text().splitlines()
        if line.startswith("Cloudtask") and "." in line
    }
)


class Entities:
    """All entities of a namespace."""

    def __init__(self, namespace: str) -> None:
        self.client: Any = datastore.Client(project=PROJECT, namespace=namespace)

    def all(self) -> list[Any]:
        kinds = {kind for kind, _ in PROPERTIES}
        return [
            e for kind in sorted(kinds) for e in self.client.query(kind=kind).fetch()
        ]

    def keys(self) -> set[Any]:
        return {entity.key for entity in self.all()}

    def put_all(self, entities: list[Any]) -> None:
        for start in range(0, len(entities), 400):
            self.client.put_multi(entities[start : start + 400])

    @contextmanager
    def undone(self) -> Iterator[None]:
        before = self.all()
        yield
        for key in self.keys():
            self.client.delete(key)
        self.put_all(before)


@pytest.fixture
def entities(datastore_at: Callable[[str], object]) -> Iterator[Entities]:
    datastore_at("firestore")
    store = empty_store()
    with override_settings(CLOUDTASK={**SETTINGS, "STORE": store}), clock.virtual():
        tasks.called.clear()
        yield Entities(store["NAMESPACE"])
        tasks.called.clear()


@pytest.fixture
def site(entities: Entities) -> Site:
    return Site(entities.keys).make()


def entity_of(site: Site, entities: Entities, kind: str, name: str) -> Any:
    ours = (e for e in entities.all() if e.key in site.rows["ours"])
    return next((e for e in ours if e.kind == kind and name in e), None)


def neighbours(entity: Any, entities: Entities, name: str) -> list[Any]:
    alike = [e for e in entities.all() if e.kind == entity.kind and e.key != entity.key]
    beside = [one for one in entity.values() if type(one) is type(entity[name])]
    return [*(e[name] for e in alike if name in e), *beside]


@pytest.mark.exhaustive(sample=8)
@pytest.mark.parametrize(("kind", "name"), PROPERTIES)
def test_what_someone_writes_to_a_property_is_not_trusted(
    site: Site, entities: Entities, kind: str, name: str
) -> None:
    entity = entity_of(site, entities, kind, name)
    if entity is None:
        pytest.skip("nothing of ours has it")
    before = entity[name]
    for value in [None, *hostile(before, neighbours(entity, entities, name))]:
        with undone(site), entities.undone():
            entity[name] = value
            try:
                entities.client.put(entity)
            except Exception:  # noqa: BLE001  Datastore refuses it
                continue
            site.read_all()
            site.check()
            site.check_theirs()


def test_entities_that_nobody_wrote_to_go_on(site: Site) -> None:
    site.read_all()
    site.check()
    site.check_theirs()
    assert ("finish", "ours") in tasks.called
    assert site.problems == []
