"""Fixtures: Google's two emulators behind a proxy, and the store in each.

A test that wants `datastore_store` or `faults` runs on both emulators.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator

import pytest

from cloudtask.datastore_emulator import VARIABLE
from cloudtask.stores.datastore import DatastoreStore
from cloudtask.stores.datastore.access import MUTATIONS
from cloudtask.stores.datastore.blobs import CHUNK_KIND
from cloudtask.stores.datastore.client import clients
from tests.support.emulators import VARIABLES, Emulators
from tests.support.proxy import DatastoreProxy

BACKEND = "cloudtask.stores.datastore.DatastoreStore"
# A process has a project of its own: the Datastore emulator refuses commits while
# others in the same project are under way.
PROJECT = f"test-{uuid.uuid4().hex[:8]}"
KINDS = sorted(VARIABLES)


def empty_place() -> dict[str, str]:
    """Options of a store in an empty namespace."""
    return {"PROJECT": PROJECT, "NAMESPACE": uuid.uuid4().hex}


def empty_store() -> dict[str, str]:
    """The setting STORE for such a store."""
    return {"BACKEND": BACKEND, **empty_place()}


@pytest.fixture(scope="session")
def datastore_proxies(
    emulators: Emulators,
) -> Iterator[Callable[[str], DatastoreProxy]]:
    """Makes the proxy of each kind of emulator, once."""
    made: dict[str, DatastoreProxy] = {}

    def proxy(kind: str) -> DatastoreProxy:
        if kind not in made:
            made[kind] = DatastoreProxy(emulators.address(kind), kind)
        return made[kind]

    yield proxy
    for one in made.values():
        one.stop()


@pytest.fixture
def datastore_at(
    datastore_proxies: Callable[[str], DatastoreProxy],
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Callable[[str], DatastoreProxy]]:
    """Makes an emulator the Datastore of this process, by its kind."""
    used: list[DatastoreProxy] = []

    def use(kind: str) -> DatastoreProxy:
        proxy = datastore_proxies(kind)
        used.append(proxy)
        proxy.reset()
        monkeypatch.setenv(VARIABLE, proxy.address)
        return proxy

    yield use
    for proxy in used:
        proxy.reset()


@pytest.fixture(params=KINDS)
def faults(
    request: pytest.FixtureRequest, datastore_at: Callable[[str], DatastoreProxy]
) -> DatastoreProxy:
    """The way to each emulator, for faults and counts."""
    return datastore_at(request.param)


@pytest.fixture
def optimistic(faults: DatastoreProxy) -> DatastoreProxy:
    """The same, if another process can write between a transaction's read and commit.

    Firestore's emulator locks what a transaction has read, and lets the other wait.
    """
    if faults.kind == "firestore":
        pytest.skip("its locks let nobody come in between")
    return faults


@pytest.fixture
def datastore_store(
    faults: DatastoreProxy, monkeypatch: pytest.MonkeyPatch
) -> Iterator[DatastoreStore]:
    """The store, in an empty namespace. It makes no pauses between its tries."""
    store = DatastoreStore(empty_place(), sleep=lambda seconds: None)
    yield store
    faults.reset()
    monkeypatch.setenv(VARIABLE, faults.address)
    _empty(store)


def _empty(store: DatastoreStore) -> None:
    """Delete the large entities: the emulators keep all of them in memory."""
    client = clients.get(store.place)
    query = client.query(kind=CHUNK_KIND, namespace=store.place.namespace)
    query.keys_only()
    keys = [entity.key for entity in query.fetch()]
    for start in range(0, len(keys), MUTATIONS):
        client.delete_multi(keys[start : start + MUTATIONS])
