"""An UPDATE for each row, beside Celery's chunks and a bare loop, on three databases.

python -m benchmarks.walking --rows 1000000 --databases postgres
"""

from __future__ import annotations

import argparse
import random
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from benchmarks.end_to_end import prepare_database, ready
from benchmarks.harness import Effort
from benchmarks.peers import FLOWS
from benchmarks.processes import Unavailable, bench
from benchmarks.results import Figure, Outcome, Verdict
from benchmarks.site import CHUNK

DATABASES = {"postgres": "PostgreSQL", "mysql": "MariaDB", "sqlite": "SQLite"}
OURS, CELERY, BARE = "cloudtask", "Celery, chunks of 500", "bare loop, one process"
CASES = {FLOWS[0]: OURS, FLOWS[1]: CELERY}
ABOUT = (
    "Each row gets an UPDATE of its own, but for 10,000,000 rows, where one UPDATE"
    " changes 500. cloudtask walks in shards, with"
    ' `atomic="page"`: a page and its cursor commit together, so a crash repeats'
    " nothing, and `finalize` runs once. It can be paused and shows its progress."
    " The group of Celery is written by hand. It has none of these, and repeats a"
    " chunk after a crash. The bare loop is one process with a transaction for 500"
    " rows, and a crash ends it; it does not walk the largest tables. All changes are"
    " counted after each walk. SQLite has one writer at a time, so two workers are no"
    " faster there than one."
)
WARMING = 4_000  # rows of a walk before, in which both workers take part
LONG = 100_000  # rows; the bare loop would take several minutes for more
REASON = (
    "cloudtask also plans, and keeps a cursor, a lease and counts. The chunks keep"
    " nothing."
)


@dataclass(frozen=True, slots=True)
class Walk:
    """A table, and whether one UPDATE changes many rows `together`."""

    database: str
    rows: int
    together: bool = False

    @property
    def measure(self) -> str:
        how = f", an UPDATE for {CHUNK}" if self.together else ""
        return f"{self.rows:,} rows{how}, {DATABASES[self.database]}"


Sizes = Mapping[Walk, int]  # how often each is walked
QUICK = {Walk("postgres", 10_000): 1}
FULL = {
    Walk("postgres", 10_000): 2,
    Walk("mysql", 10_000): 1,
    Walk("sqlite", 10_000): 1,
    Walk("postgres", 1_000_000): 1,
    Walk("postgres", 10_000_000, together=True): 1,
}
THOROUGH = {**FULL, Walk("postgres", LONG): 2, Walk("mysql", LONG): 1}


def outcome(effort: Effort) -> Outcome:
    if effort.quick:
        return walked(QUICK)
    return walked(THOROUGH if effort.thorough else FULL)


def walked(sizes: Sizes) -> Outcome:
    """Make each walk so many times."""
    samples: dict[tuple[str, str], list[float]] = defaultdict(list)
    missing: dict[str, str] = {}
    order = random.Random(0)
    for walk, repeats in sizes.items():
        try:
            if walk.database != "sqlite":  # whose file is new for each walk
                prepare_database(BENCH_DATABASE=walk.database)
            for _ in range(repeats):
                for peer in order.sample(FLOWS, len(FLOWS)):
                    _make(walk, peer, samples)
        except Unavailable as error:
            missing[walk.measure] = str(error)
    found = Outcome(
        name="walking",
        title="Walk a table with an UPDATE for each row, two workers",
        baseline=OURS,
        about=ABOUT,
        charts=tuple(dict.fromkeys(measure for measure, _ in samples)),
        figures=[
            Figure(
                case=case, measure=measure, unit="rows a second", samples=s, more=True
            )
            for (measure, case), s in samples.items()
        ],
        missing=missing,
    )
    found.verdicts = list(_verdicts(found))
    return found


def _make(walk: Walk, peer: str, samples: dict[tuple[str, str], list[float]]) -> None:
    with bench(peer, BENCH_DATABASE=walk.database) as place:
        if walk.database == "sqlite":
            prepare_database(**place.environ)
        caller, how = ready(place), {"together": walk.together}
        caller("walk", rows=WARMING, **how)
        rate = caller("walk", rows=walk.rows, **how)
        samples[walk.measure, CASES[peer]].append(rate)
        if peer == FLOWS[0] and not walk.together and walk.rows <= LONG:
            rate = caller("walk", rows=walk.rows, bare=True, **how)
            samples[walk.measure, BARE].append(rate)


def _verdicts(found: Outcome) -> Sequence[Verdict]:
    verdicts = []
    for measure in found.measures():
        ours, theirs = found.figure(OURS, measure), found.figure(CELERY, measure)
        if ours is not None and theirs is not None:
            figure = ours.median / theirs.median
            what = f"{measure}, over {CELERY}"
            verdict = Verdict(
                what=what, figure=figure, limit=1, least=True, reason=REASON
            )
            verdicts.append(verdict)
    return verdicts


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.walking")
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument(
        "--together", action="store_true", help=f"an UPDATE for {CHUNK} rows, not each"
    )
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--databases", nargs="+", choices=DATABASES, default=DATABASES)
    options = parser.parse_args()
    with suppress(KeyboardInterrupt):
        walks = [
            Walk(database, options.rows, options.together)
            for database in options.databases
        ]
        walked(dict.fromkeys(walks, options.repeats)).show()
    return 0


if __name__ == "__main__":
    sys.exit(main())
