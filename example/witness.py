"""Finds out what a killed worker had in hand, and tells why nothing of it was lost."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Taken:
    """A shard that another worker took over: where it went on, and what it repeats."""

    index: int
    city: int | None  # the id of the last city that was written down as finished
    done: int
    expected: int
    repeated: int  # cities after the cursor that had been processed already


class Witness:
    """Looks at the shards of a run, again and again."""

    def __init__(self, run: Any) -> None:
        self.run = run
        self.found: dict[int, Taken] = {}

    def look(self) -> None:
        """Note shards whose lease has expired: the killed worker did not give it back.

        A worker that takes such a shard over counts the death, until the cursor moves.
        """
        from django.utils import timezone

        from cloudtask.stores import store

        run, now = str(self.run.id), timezone.now()
        for shard in store().load_shards(run):
            is_over = shard.lease_until is not None and shard.lease_until < now
            if shard.index not in self.found and (shard.deaths or is_over):
                taken = _taken(store().load_shard(run, shard.index))
                self.found[shard.index] = taken

    def tell(self, killed: int, lease: float) -> None:
        """Print why nothing was lost."""
        print("\nWhy nothing was lost")
        print(f"  The worker {killed} was killed with SIGKILL, so it could clean up")
        print("  nothing. What it had in hand was written down before, by cloudtask:")
        for _, taken in sorted(self.found.items()):
            print(f"    {_told(taken)}")
        if not self.found:
            print("    nothing: its shards had been written down to the end.")
        print(f"  1. A worker writes each 2 s, into a row of {_table()}, which")
        print("     city of its shard is the last finished one.")
        print("  2. Cloud Tasks got no answer for the killed requests, and sent them")
        print("     to the other worker again.")
        print(
            f"  3. When the lease was over ({lease:g} s), that worker went on after the"
        )
        print("     last finished city. `measure` writes the same values again, so")
        print("     cities that were processed twice are right, too.")


def _taken(shard: Any) -> Taken:
    from cities.models import City

    from cloudtask.iteration.bounds import Bounds, key_of

    # A new shard has no cursor yet; it begins above its lowest key.
    cursor = key_of(shard.low if shard.cursor is None else shard.cursor)
    rest = Bounds(cursor, key_of(shard.high)).of(City.objects.all())
    repeated = rest.filter(distance__isnull=False).count()
    return Taken(shard.index, cursor, shard.done, shard.expected, repeated)


def _told(taken: Taken) -> str:
    from cities.models import City

    shard = f"shard {taken.index}"
    city = City.objects.filter(pk=taken.city).first()
    if city is None or not taken.done:
        return f"{shard}: no city was written down yet, so it began again"
    return (
        f"{shard}: {city}, id {city.pk}, {taken.done:,} of {taken.expected:,} done; "
        f"{taken.repeated:,} after it came twice"
    )


def _table() -> str:
    from cloudtask.models import IterationShard
    from cloudtask.stores import store
    from cloudtask.stores.database import DatabaseStore

    if isinstance(store(), DatabaseStore):
        return IterationShard._meta.db_table
    return "the store in Datastore"
