"""Measures cases side by side: every repeat runs all of them.

The best of many repeats is the cost of the code. The median shows how much the machine
disturbed it. The order of the cases changes with each repeat.
"""

from __future__ import annotations

import gc
import random
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field

from benchmarks.results import Figure, Outcome, Verdict

OURS = "cloudtask"
EACH = "time of each"


@dataclass(frozen=True, slots=True, kw_only=True)
class Effort:
    """How many repeats to measure, and whether with the largest sizes, too."""

    quick: bool
    repeats: int
    thorough: bool = False


@dataclass(frozen=True, slots=True)
class Case:
    """One case to measure.

    `run` does `operations` operations. If `operations` is 0, `run` measures one itself
    and returns seconds. `around` is entered for each repeat and is not timed. `most` is
    the largest number of repeats, for a case that takes long.
    """

    name: str
    run: Callable[[], object]
    operations: int
    around: Callable[[], AbstractContextManager[object]] = nullcontext
    most: int | None = None
    measure: str = EACH

    def sample(self) -> float:
        """Run the case once; the seconds for each operation."""
        gc.collect()
        with self.around():
            if not self.operations:
                return float(self.run())  # type: ignore[arg-type]
            started = time.perf_counter()
            self.run()
            return (time.perf_counter() - started) / self.operations


@dataclass(frozen=True, slots=True)
class Measured:
    """Seconds for each operation, over all repeats."""

    samples: tuple[float, ...]

    @property
    def best(self) -> float:
        return min(self.samples)

    @property
    def median(self) -> float:
        return statistics.median(self.samples)


Results = Mapping[str, Measured]


@dataclass(frozen=True, slots=True)
class Budget:
    """A figure that is computed from the results and must be under `limit`."""

    what: str
    figure: Callable[[Results], float]
    limit: float
    unit: str
    reason: str  # why it is missed, if it is

    def verdict(self, results: Results) -> Verdict:
        """The figure beside its limit."""
        return Verdict(
            what=self.what,
            figure=self.figure(results),
            limit=self.limit,
            unit=self.unit,
            reason=self.reason,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """Cases that are compared with each other.

    Figures are shown in `unit`, of which a second has `scale`. Ratios refer to the case
    that is named `baseline`.
    """

    title: str
    cases: Sequence[Case]
    budgets: Sequence[Budget] = ()
    baseline: str = OURS
    unit: str = "us"
    scale: float = 1e6
    about: str = ""
    notes: Sequence[str] = ()
    chart: bool = True
    around: Callable[[], AbstractContextManager[object]] = field(default=nullcontext)


def measure(scenario: Scenario, repeats: int) -> Results:
    """Run all cases `repeats` times, interleaved, after one round to warm up."""
    samples: dict[str, list[float]] = {case.name: [] for case in scenario.cases}
    order = random.Random(0)
    with scenario.around():
        for case in scenario.cases:
            if case.most is None:
                case.sample()
        for repeat in range(repeats):
            for case in order.sample(scenario.cases, len(scenario.cases)):
                if case.most is None or repeat < case.most:
                    samples[case.name].append(case.sample())
    return {name: Measured(tuple(found)) for name, found in samples.items()}


def outcome(name: str, scenario: Scenario, results: Results) -> Outcome:
    """The figures of the scenario, in its own unit."""
    return Outcome(
        name=name,
        title=scenario.title,
        baseline=scenario.baseline,
        about=scenario.about,
        by_best=True,
        charts=(EACH,) if scenario.chart else (),
        figures=[
            Figure(
                case=case.name,
                measure=case.measure,
                unit=scenario.unit,
                samples=[s * scenario.scale for s in results[case.name].samples],
            )
            for case in scenario.cases
        ],
        verdicts=[budget.verdict(results) for budget in scenario.budgets],
        notes=scenario.notes,
    )
