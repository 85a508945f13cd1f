"""Calls from their enqueue to their end, in real processes, beside other libraries.

    python -m benchmarks.end_to_end [--quick] [peer ...]

Each peer has a caller and two workers, which run one call at a time each. All peers run
in each repeat, in an order that changes.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from benchmarks import peers
from benchmarks.harness import Effort
from benchmarks.processes import Bench, Caller, Unavailable, bench
from benchmarks.results import Figure, Outcome, Verdict

NOOP, MANY = "no-op calls through", "no-op calls through, one call for many"
COMMITTED = "no-op calls through, a transaction each"
SLOW = "10 ms calls through"
ENQUEUED = "calls enqueued"
P50, P99 = "latency, p50", "latency, p99"
RATES = (NOOP, MANY, COMMITTED, SLOW, ENQUEUED)
LEAST, MOST = 40, 6000  # calls of a sample
RISING = 1.3  # a rate that grows by less with twice the calls has settled
LONGEST = 2.0  # seconds of calls for the latency
WAY = (
    "Each delivery is an HTTP request: our emulator, gunicorn and Django handle it, and"
    " share the cores with the caller."
)
CELERY, DRAMATIQ = "Celery on Redis, acks late", "Dramatiq on Redis"
OURS, DATABASE = "cloudtask, its emulator", "django-tasks-db on PostgreSQL"


ABOUT = (
    "A caller enqueues calls, and two workers run them, one call at a time each."
    " All processes share this machine. Our emulator and gunicorn take the place of"
    " Google's service and of your site. Their work counts here, as does that of"
    " Redis, RabbitMQ and PostgreSQL. Google's service sends 500 calls a second at"
    " most from a queue; our emulator has no such limit in this comparison. Tokens"
    " of our emulator are verified. Peers have their usual settings, and no"
    " middleware of ours."
)


@dataclass(frozen=True, slots=True)
class Size:
    """How many repeats, and how many seconds a sample should take about."""

    repeats: int
    seconds: float
    latencies: int


QUICK, FULL, THOROUGH = Size(1, 0.5, 60), Size(3, 0.8, 200), Size(5, 2.0, 300)


class Measuring:
    """Collects the samples of all peers."""

    def __init__(self) -> None:
        self.samples: dict[tuple[str, str], list[float]] = defaultdict(list)
        self.facts: dict[str, dict[str, Any]] = {}
        self.missing: dict[str, str] = {}

    def turn(self, peer: str, size: Size) -> None:
        if peer in self.missing:
            return
        try:
            with bench(peer) as place:
                self._measure(peer, ready(place), size)
        except Unavailable as error:
            self.missing[peer] = str(error)
        print(".", end="", flush=True, file=sys.stderr)

    def _measure(self, peer: str, caller: Caller, size: Size) -> None:
        facts = self.facts[peer] = caller("describe")
        found = self.samples
        ways = [(NOOP, "singly", 0), (COMMITTED, "committed", 0), (SLOW, "singly", 10)]
        if "many" in facts["ways"]:
            ways.insert(1, (MANY, "many", 0))
        for measure, way, milliseconds in ways:
            rates = _through(caller, size, way=way, milliseconds=milliseconds)
            found[measure, peer].append(rates["rate"])
            if measure == NOOP:
                found[ENQUEUED, peer].append(rates["enqueue"])
        seconds = sorted(caller("latency", most=size.latencies, seconds=LONGEST))
        found[P50, peer].append(statistics.median(seconds) * 1e3)
        found[P99, peer].append(seconds[int(len(seconds) * 0.99)] * 1e3)

    def figures(self) -> Iterator[Figure]:
        for measure in (*RATES, P50, P99):
            more = measure in RATES
            for peer in peers.PEERS:
                if samples := self.samples.get((measure, peer)):
                    yield Figure(
                        case=self.facts[peer]["title"],
                        measure=measure,
                        unit="a second" if more else "ms",
                        samples=samples,
                        more=more,
                    )


def ready(place: Bench) -> Caller:
    """A caller whose workers have run some calls already."""
    caller = place.caller()
    caller("prepare")
    for command in caller("workers"):
        place.start(command)
    place.wait_for(caller("describe")["ports"])
    caller("through", way="singly", count=LEAST)
    return caller


def _through(caller: Caller, size: Size, **how: Any) -> Any:
    """As many calls as take about the seconds that a sample should take.

    More, while these raise the rate: a worker that looks for calls once a second may
    wait for as long before the first of them.
    """
    count = LEAST // 2
    found = caller("through", count=count, **how)
    while True:
        before = found["rate"]
        count = int(min(MOST, max(2 * count, before * size.seconds)))
        found = caller("through", count=count, **how)
        if count == MOST or found["rate"] < RISING * before:
            return found


def prepare_database(**environ: str) -> None:
    """Create the database of the site anew, with the tables of all peers."""
    from benchmarks.site.database import create

    with bench("", **environ) as place:
        create(place)


def outcome(effort: Effort) -> Outcome:
    prepare_database()
    size = THOROUGH if effort.thorough else QUICK if effort.quick else FULL
    return compared(size, peers.PEERS)


def compared(size: Size, chosen: Sequence[str]) -> Outcome:
    """Measure these peers, in an order that changes with each repeat."""
    measuring, order = Measuring(), random.Random(0)
    for _ in range(size.repeats):
        for peer in order.sample(list(chosen), len(chosen)):
            measuring.turn(peer, size)
    found = Outcome(
        name="end_to_end",
        title="End to end, real processes, two workers each",
        baseline=OURS,
        about=ABOUT,
        charts=(NOOP, MANY, COMMITTED, SLOW, P50, P99),
        keeps=[facts["title"] for facts in measuring.facts.values() if facts["keeps"]],
        figures=list(measuring.figures()),
        notes=[
            f"{facts['title']}: {facts['promise']}"
            for peer in peers.PEERS
            if (facts := measuring.facts.get(peer))
        ],
        missing=measuring.missing,
    )
    found.verdicts = list(_verdicts(found))
    return found


def _verdicts(found: Outcome) -> Iterator[Verdict]:
    """The budgets; those about a peer that is missing are left out."""

    def ratio(measure: str, peer: str) -> float:
        ours, theirs = found.figure(OURS, measure), found.figure(peer, measure)
        if ours is None or theirs is None:
            raise Unavailable(peer)
        return ours.median / theirs.median

    for peer, limit in ((CELERY, 1.5), (DATABASE, 3)):
        with suppress(Unavailable):
            figure, what = ratio(NOOP, peer), f"defer(), through, over {peer}"
            yield Verdict(what=what, figure=figure, limit=limit, least=True, reason=WAY)
            for measure in (P50, P99):
                figure, what = ratio(measure, peer), f"{measure}, over {peer}"
                yield Verdict(what=what, figure=figure, limit=1, reason=WAY)
    with suppress(Unavailable):
        ours, theirs = found.figure(OURS, MANY), found.figure(DRAMATIQ, NOOP)
        if ours is not None and theirs is not None:
            yield Verdict(
                what=f"defer_many(), through, over {DRAMATIQ}",
                figure=ours.median / theirs.median,
                limit=1,
                least=True,
                reason=WAY,
            )


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.end_to_end")
    parser.add_argument("peers", nargs="*", metavar="peer")
    parser.add_argument("--quick", action="store_true", help="one repeat")
    options = parser.parse_args()
    if unknown := set(options.peers) - set(peers.PEERS):
        parser.error(f"no peer {', '.join(unknown)}; known are {peers.PEERS}")
    size = QUICK if options.quick else FULL
    prepare_database()
    found = compared(size, options.peers or peers.PEERS)
    found.show()
    for note in found.notes:
        print(f"  {note}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
