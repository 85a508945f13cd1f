"""Rows: entities as the store reads and writes them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from cloudtask.stores.datastore.fitting import fitted, place_of
from cloudtask.stores.fitting import Unreadable

Path = tuple[str, ...]  # kind and name, from the root down: a key


@dataclass(frozen=True, slots=True)
class Row:
    """An entity. Only `indexed` properties can be queried, and cost index writes.

    `misfit` is the name of a property that held what is never written there.
    """

    path: Path
    values: Mapping[str, Any] = field(default_factory=dict)
    indexed: Collection[str] = ()
    misfit: str | None = None

    @property
    def why(self) -> str:
        """A sentence about a property that can't be read; "" if there is none."""
        return str(self._error(self.misfit)) if self.misfit else ""

    def _error(self, name: str) -> Unreadable:
        return Unreadable(place_of(self.path[-2], self.path[-1], name))

    def check(self) -> None:
        """Raise Unreadable if a property can't be read."""
        if self.misfit is not None:
            raise self._error(self.misfit)


def row_of(entity: Any) -> Row:
    hidden = entity.exclude_from_indexes
    values, misfit = fitted(entity.kind, dict(entity))
    return Row(
        tuple(entity.key.flat_path),
        values,
        tuple(name for name in entity if name not in hidden),
        misfit,
    )
