"""The documented limits of Firestore in Datastore mode.

Source: https://cloud.google.com/datastore/docs/concepts/limits, and for transactions
https://cloud.google.com/datastore/docs/concepts/transactions.
"""

from __future__ import annotations

from dataclasses import dataclass

MIB = 1024 * 1024


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Sizes are bytes, durations are seconds."""

    request: int = 10 * MIB  # a request, and so a transaction
    entity: int = MIB - 4
    property: int = MIB - 89  # one value that is not indexed
    indexed_property: int = 1500
    key: int = 6 * 1024
    name: int = 1500  # a kind, a key's name, a property's name
    path: int = 100  # elements of a key
    nesting: int = 20  # embedded entities in embedded entities
    lookup: int = 1000  # keys in one Lookup
    # The page of limits no longer has the 500 mutations of Cloud Datastore; older
    # databases and clients do, so a store that keeps to it is right everywhere.
    mutations: int = 500
    # What follows is how much the service answers at once, as it was observed:
    # deferred keys and further batches carry the rest. The Python client would not
    # receive a message over 4 MiB.
    response: int = 4_000_000
    batch: int = 300  # results of one RunQuery
    skipped: int = 1000  # results that one RunQuery skips for an offset
    idle: float = 60  # of a transaction
    life: float = 270  # of a transaction
