"""Ids for keys that lack one: unique in a database, scattered as Datastore's are."""

from __future__ import annotations

import random
from collections.abc import Callable

from tests.support.datastore.keys import Key

BITS = 52  # so that a float holds every id


class Ids:
    def __init__(self) -> None:
        self._random = random.Random()
        self._taken: set[int] = set()

    def complete(self, key: Key, exists: Callable[[Key], object]) -> Key:
        """`key` with an id that was not allocated, reserved or used before."""
        while True:
            number = self._random.getrandbits(BITS)
            completed = key.completed(number)
            if number and number not in self._taken and not exists(completed):
                self._taken.add(number)
                return completed

    def reserve(self, key: Key) -> None:
        self._taken.add(key.path[-1].number)
