"""Measures the requests, the outbox and the records of execution that calls need."""

from __future__ import annotations

import random

from benchmarks.end_to_end import prepare_database
from benchmarks.harness import Effort
from benchmarks.processes import Unavailable, bench
from benchmarks.results import Figure, Outcome, Verdict

CPU, TIME = "CPU of the caller", "time of each"
DEFER, GOOGLE = "defer()", "Google's client, same request"
PLAIN, ATOMIC = "run a call", "run a call with atomic=True"
# Case to measure, function of `peers.cloudtask_store`, and numbers, in full and quick.
CASES = {
    DEFER: (CPU, "cpu_of_defer", 1000, 200),
    GOOGLE: (CPU, "cpu_of_google", 1000, 200),
    "gRPC alone, same bytes": (CPU, "cpu_of_stub", 1000, 200),
    "a call of defer_many": (TIME, "many_in_a_transaction", 10_000, 500),
    "a call that is sent after the commit": (TIME, "sent_after_commit", 2000, 500),
    "a row that is relayed": (TIME, "relayed", 5000, 500),
    PLAIN: (TIME, "executed_plain", 500, 100),
    ATOMIC: (TIME, "executed_atomic", 500, 100),
    "a record that is pruned": (TIME, "pruned", 20_000, 2000),
}
ABOUT = (
    "The first three create a task on our emulator, in another process, from the"
    " same connection; gRPC alone repeats nothing and translates no error."
    " `defer_many` writes rows in a transaction, and sends them after the commit."
    " These and the others use PostgreSQL, which waits for the disk at each commit."
    " A call with `atomic=True` commits its record with its effects. Records stay"
    " for 32 days, until a task can't be delivered again."
)


def outcome(effort: Effort) -> Outcome:
    prepare_database()
    order = random.Random(0)
    samples: dict[str, list[float]] = {case: [] for case in CASES}
    missing = {}
    try:
        with bench("cloudtask_store") as place:
            caller = place.caller()
            for command in caller("workers"):
                place.start(command)
            place.wait_for(["EMULATOR"])
            caller("hold")
            for _ in range(2 if effort.quick else 5):
                for case in order.sample(list(CASES), len(CASES)):
                    _, function, full, quick = CASES[case]
                    count = quick if effort.quick else full
                    seconds = caller("timed", function=function, count=count)
                    samples[case].append(seconds * 1e6)
    except Unavailable as error:
        missing["cloudtask"] = str(error)
    found = Outcome(
        name="costs",
        title="Costs beside the calls",
        baseline=DEFER,
        about=ABOUT,
        by_best=True,
        charts=(CPU, TIME),
        figures=[
            Figure(case=case, measure=measure, unit="us", samples=samples[case])
            for case, (measure, *_) in CASES.items()
            if samples[case]
        ],
        missing=missing,
    )
    ours, google = found.figure(DEFER, CPU), found.figure(GOOGLE, CPU)
    if ours is not None and google is not None:
        what, figure = "CPU of defer(), over Google's client", ours.best / google.best
        reason = "defer() also encodes and signs the call."
        found.verdicts = [Verdict(what=what, figure=figure, limit=1, reason=reason)]
    return found
