"""Every property of each entity is written by someone else; all readers read it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from google.cloud import datastore

from cloudtask.datastore_emulator import VARIABLE
from cloudtask.stores.datastore.access import MUTATIONS
from tests.stores.datastore_fixtures import PROJECT, empty_store
from tests.support.proxy import DatastoreProxy
from tests.tampering import tasks
from tests.tampering.odd import ODD_PROPERTIES
from tests.tampering.site import Site, prepared, undone
from tests.tampering.values import hostile, is_shown

pytestmark = [
    pytest.mark.datastore,
    pytest.mark.django_db(databases=["default", "other"]),
]

NAMES = Path(__file__).parents[1] / "golden" / "names.txt"
# No entity of the site has these: a large description lies in entities of its own, and
# `due` is that of a row whose retry waits.
ABSENT = {
    *(
        ("CloudtaskRun", f"plan_{part}")
        for part in ("digest", "inline", "name", "size")
    ),
    ("CloudtaskRowFailure", "due"),
}
PROPERTIES = sorted(
    {
        tuple(line.split()[0].split("."))
        for line in NAMES.read_text().splitlines()
        if line.startswith("Cloudtask") and "." in line
    }
    - ABSENT
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

    @contextmanager
    def undone(self) -> Iterator[None]:
        """Nothing that the block does to entities remains."""
        before = {entity.key: entity for entity in self.all()}
        yield
        after = {entity.key: entity for entity in self.all()}
        changed = [e for key, e in before.items() if after.get(key) != e]
        for start in range(0, len(changed), MUTATIONS):
            self.client.put_multi(changed[start : start + MUTATIONS])
        self.client.delete_multi(list(after.keys() - before.keys())[:MUTATIONS])


@pytest.fixture(scope="module")
def store(
    datastore_proxies: Callable[[str], DatastoreProxy],
) -> Iterator[dict[str, str]]:
    """The setting STORE for an empty store in an emulator."""
    with pytest.MonkeyPatch.context() as patch:
        proxy = datastore_proxies("datastore")
        proxy.reset()
        patch.setenv(VARIABLE, proxy.address)
        yield empty_store()


@pytest.fixture(scope="module")
def entities(store: dict[str, str]) -> Entities:
    return Entities(store["NAMESPACE"])


@pytest.fixture(scope="module")
def site(
    entities: Entities,
    store: dict[str, str],
    django_db_setup: None,
    django_db_blocker: Any,
) -> Iterator[Site]:
    with django_db_blocker.unblock(), prepared(entities.keys, STORE=store) as site:
        yield site


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
    site: Site, entities: Entities, one_in: Any, kind: str, name: str
) -> None:
    entity = entity_of(site, entities, kind, name)
    assert entity is not None, f"the site has no {kind} with {name}"
    values = hostile(entity[name], neighbours(entity, entities, name))
    for value in one_in(10, [None, *values]):
        with undone(site), entities.undone():
            entity[name] = value
            try:
                entities.client.put(entity)
            except Exception:  # noqa: BLE001  Datastore refuses it
                continue
            site.read_all(lists=is_shown(value))
            site.check()
            site.check_theirs()


@pytest.mark.exhaustive(sample=8)
@pytest.mark.parametrize(("kind", "name"), PROPERTIES)
def test_a_value_that_a_property_can_not_hold_stops_nothing_else(
    site: Site, entities: Entities, one_in: Any, kind: str, name: str
) -> None:
    entity = entity_of(site, entities, kind, name)
    problems = []
    for value in one_in(6, ODD_PROPERTIES):
        if type(value) is type(entity[name]):
            continue
        with undone(site), entities.undone():
            entity[name] = value
            entities.client.put(entity)
            site.read_all()
            try:
                site.check()
                site.check_theirs()
                site.check_ours(name, "description" if "blob" in name else name)
            except AssertionError as error:
                problems.append(f"{value!r:.80}: {error}"[:3000])
    assert not problems, "\n".join(problems)


def test_every_property_of_the_list_is_there(site: Site, entities: Entities) -> None:
    there = {(e.kind, name) for e in entities.all() for name in e}
    assert not set(PROPERTIES) - there


def test_entities_that_nobody_wrote_to_go_on(site: Site, entities: Entities) -> None:
    with undone(site), entities.undone():
        site.read_all()
        site.check()
        site.check_theirs()
        assert ("finish", "ours") in tasks.called
        assert site.problems == []
