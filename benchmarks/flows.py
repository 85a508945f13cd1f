"""Chains and groups beside Celery's, in real processes with two workers each."""

from __future__ import annotations

import random
from contextlib import ExitStack

from benchmarks.caller import MEMBERS
from benchmarks.end_to_end import prepare_database, ready
from benchmarks.harness import Effort
from benchmarks.peers import FLOWS
from benchmarks.processes import Caller, Unavailable, bench
from benchmarks.results import Figure, Outcome

CHAINS, GROUPS = "chains of 3", f"groups of {MEMBERS} and a callback"
COUNTS = {CHAINS: ("chains", 300), GROUPS: ("groups", 6)}
ABOUT = (
    "Each value is handed on to the next step or to the callback. A group of cloudtask"
    " is rows in PostgreSQL, which commit before anything is sent. A chord of Celery is"
    " a counter in Redis. Celery's chains keep no results here, and its chords keep"
    " those of the members. Celery acknowledges late."
)


def outcome(effort: Effort) -> Outcome:
    prepare_database()
    samples: dict[tuple[str, str], list[float]] = {}
    titles: dict[str, str] = {}
    missing: dict[str, str] = {}
    order = random.Random(0)
    for _ in range(1 if effort.quick else 3):
        for peer in order.sample(FLOWS, len(FLOWS)):
            try:
                with ExitStack() as stack:
                    caller = ready(stack.enter_context(bench(peer)))
                    titles[peer] = caller("describe")["title"]
                    _measure(peer, caller, effort, samples)
            except Unavailable as error:
                missing[peer] = str(error)
    return Outcome(
        name="flows",
        title="Chains and groups, two workers each",
        baseline="cloudtask",
        about=ABOUT,
        charts=tuple(COUNTS),
        figures=[
            Figure(
                case=titles[peer],
                measure=measure,
                unit="a second",
                samples=samples[measure, peer],
                more=True,
            )
            for measure in COUNTS
            for peer in FLOWS
            if (measure, peer) in samples
        ],
        missing=missing,
    )


def _measure(
    peer: str,
    caller: Caller,
    effort: Effort,
    samples: dict[tuple[str, str], list[float]],
) -> None:
    for measure, (way, count) in COUNTS.items():
        count = count // 2 if effort.quick else count
        caller("through", way=way, count=max(1, count // 10))
        rate = caller("through", way=way, count=count)["rate"]
        samples.setdefault((measure, peer), []).append(rate)
