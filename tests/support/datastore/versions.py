"""Versions: every entity of one database, now and as open transactions still see it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping

from tests.support.datastore.entities import Record
from tests.support.datastore.keys import Key, Partition

Kind = tuple[str, str]  # namespace, kind


class Versions:
    def __init__(self) -> None:
        self.latest = 0
        self._histories: dict[Key, list[Record]] = {}
        self._kinds: dict[Kind, set[Key]] = defaultdict(set)
        self._outdated: set[Key] = set()
        self._oldest = 0

    def now(self, key: Key) -> Record | None:
        """The entity as it is; None where there is none."""
        return self.at(key, self.latest)

    def at(self, key: Key, version: int) -> Record | None:
        for record in reversed(self._histories.get(key, ())):
            if record.version <= version:
                return record if record.entity is not None else None
        return None

    def changed_since(self, key: Key, version: int) -> bool:
        history = self._histories.get(key)
        return bool(history) and history[-1].version > version

    def scan(self, home: Partition, kind: str | None, version: int) -> Iterator[Record]:
        for key in self._keys(home.namespace, kind):
            record = self.at(key, version)
            if record is not None:
                yield record

    def write(self, version: int, changes: Mapping[Key, Record]) -> None:
        self.latest = version
        for key, record in changes.items():
            history = self._histories.setdefault(key, [])
            history.append(record)
            self._kinds[key.partition.namespace, key.kind].add(key)
            if len(history) > 1 or record.entity is None:
                self._outdated.add(key)

    def forget_before(self, version: int) -> None:
        """Drops what nobody sees who reads at `version` or later."""
        if version == self._oldest:
            return
        self._oldest = version
        for key in list(self._outdated):
            self._forget(key, version)

    def _forget(self, key: Key, version: int) -> None:
        history = self._histories[key]
        old = sum(record.version <= version for record in history)
        if old and history[old - 1].entity is None:
            old += 1
        del history[: max(old - 1, 0)]
        if len(history) > 1:
            return
        if not history:
            del self._histories[key]
            self._kinds[key.partition.namespace, key.kind].discard(key)
        if not history or history[0].entity is not None:
            self._outdated.discard(key)

    def _keys(self, namespace: str, kind: str | None) -> Iterator[Key]:
        if kind is not None:
            yield from self._kinds.get((namespace, kind), ())
            return
        for (space, _), keys in self._kinds.items():
            if space == namespace:
                yield from keys
