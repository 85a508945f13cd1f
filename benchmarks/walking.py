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

from benchmarks.end_to_end import prepare_database, ready
from benchmarks.harness import Effort
from benchmarks.peers import FLOWS
from benchmarks.processes import Unavailable, bench
from benchmarks.results import Figure, Outcome, Verdict

DATABASES = {"postgres": "PostgreSQL", "mysql": "MariaDB", "sqlite": "SQLite"}
OURS, CELERY, BARE = "cloudtask", "Celery, chunks of 500", "bare loop, one process"
CASES = {FLOWS[0]: OURS, FLOWS[1]: CELERY}
ABOUT = (
    "Each row gets an UPDATE of its own. cloudtask walks in shards, with"
    ' `atomic="page"`: a page and its cursor commit together, so a crash repeats'
    " nothing, and `finalize` runs once. It can be paused and shows its progress."
    " The group of Celery is written by hand. It has none of these, and repeats a"
    " chunk after a crash. The bare loop is one process with a transaction for 500"
    " rows, and a crash ends it. All changes are counted after each walk. SQLite has"
    " one writer at a time, so two workers are no faster there than one."
)
WARMING = 4_000  # rows of a walk before, in which both workers take part
QUICK = {("postgres", 10_000): 1}
FULL = {
    ("postgres", 10_000): 2,
    ("mysql", 10_000): 1,
    ("sqlite", 10_000): 1,
    ("postgres", 1_000_000): 1,
}
THOROUGH = {**FULL, ("postgres", 100_000): 2, ("mysql", 100_000): 1}
REASON = (
    "cloudtask also plans, and keeps a cursor, a lease and counts. The chunks keep"
    " nothing."
)
Sizes = Mapping[tuple[str, int], int]


def outcome(effort: Effort) -> Outcome:
    if effort.quick:
        return walked(QUICK)
    return walked(THOROUGH if effort.thorough else FULL)


def walked(sizes: Sizes) -> Outcome:
    """Walk in each database so many rows, so many times."""
    samples: dict[tuple[str, str], list[float]] = defaultdict(list)
    missing: dict[str, str] = {}
    order = random.Random(0)
    for (database, rows), repeats in sizes.items():
        measure = f"{rows:,} rows, {DATABASES[database]}"
        try:
            if database != "sqlite":  # whose file is new for each walk
                prepare_database(BENCH_DATABASE=database)
            for _ in range(repeats):
                for peer in order.sample(FLOWS, len(FLOWS)):
                    _walk(peer, database, rows, measure, samples)
        except Unavailable as error:
            missing[measure] = str(error)
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


def _walk(
    peer: str,
    database: str,
    rows: int,
    measure: str,
    samples: dict[tuple[str, str], list[float]],
) -> None:
    with bench(peer, BENCH_DATABASE=database) as place:
        if database == "sqlite":
            prepare_database(**place.environ)
        caller = ready(place)
        caller("walk", rows=WARMING)
        samples[measure, CASES[peer]].append(caller("walk", rows=rows))
        if peer == FLOWS[0]:
            samples[measure, BARE].append(caller("walk", rows=rows, bare=True))


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
    parser.add_argument("--rows", type=int, default=10_000, help="1e7 takes an hour")
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--databases", nargs="+", choices=DATABASES, default=DATABASES)
    options = parser.parse_args()
    with suppress(KeyboardInterrupt):
        walked(
            {(one, options.rows): options.repeats for one in options.databases}
        ).show()
    return 0


if __name__ == "__main__":
    sys.exit(main())
