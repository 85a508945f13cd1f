"""`python -m benchmarks`: measure, compare, and check the budgets."""

from __future__ import annotations

import argparse
import signal
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from importlib import import_module
from pathlib import Path

from benchmarks import harness, project, results

# Modules of this package. Those with an `outcome` start processes of their own; the
# others have a `scenario`, which is measured in this process.
SCENARIOS = (
    "end_to_end",
    "delays",
    "flows",
    "walking",
    "costs",
    "enqueue",
    "round_trip",
    "handler",
    "commits",
    "iteration",
    "sealing",
    "carriers",
    "imports",
    "dashboard",
    "emulator",
    "prediction",
)
QUICK = harness.Effort(quick=True, repeats=7)
FULL = harness.Effort(quick=False, repeats=25, thorough=True)
PUBLISHED = harness.Effort(quick=False, repeats=10)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks")
    parser.add_argument("scenarios", nargs="*", metavar="scenario")
    parser.add_argument("--quick", action="store_true", help="fewer repeats")
    parser.add_argument("--strict", action="store_true", help="fail on a missed budget")
    parser.add_argument("--json", type=Path, help="write the results there, too")
    options = parser.parse_args()
    if unknown := set(options.scenarios) - set(SCENARIOS):
        parser.error(f"no scenario {', '.join(unknown)}; known are {SCENARIOS}")
    effort = QUICK if options.quick else FULL
    started = time.monotonic()
    print(", ".join(f"{name} {found}" for name, found in _facts().items()))
    outcomes = list(measured(options.scenarios or SCENARIOS, effort))
    seconds = time.monotonic() - started
    print(f"\n{seconds:.0f} s in all")
    if options.json:
        results.write(options.json, outcomes, seconds=seconds, effort=asdict(effort))
    if any(outcome.missing for outcome in outcomes):
        print("Not all cases were measured; each is named with its reason.")
    if all(outcome.met for outcome in outcomes):
        print("All budgets are met.")
        return 0
    print("Some budgets are missed.")
    return 1 if options.strict else 0


def _facts() -> dict[str, object]:
    return {"Python": results.machine()["python"], **results.versions()}


def measured(names: Sequence[str], effort: harness.Effort) -> Iterator[results.Outcome]:
    """Measure these scenarios, and print each as soon as it is known."""
    # As with Ctrl-C, the processes that were started end, too.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    project.set_up()
    for name in names:
        started = time.monotonic()
        try:
            outcome = _measured(name, effort)
        except Exception as error:  # noqa: BLE001  the others are measured all the same
            traceback.print_exc()
            reason = f"{type(error).__name__}: {error}"
            outcome = results.Outcome(
                name=name, title=name, baseline="", missing={"all cases": reason}
            )
        outcome.seconds = time.monotonic() - started
        outcome.show()
        sys.stdout.flush()
        yield outcome


def _measured(name: str, effort: harness.Effort) -> results.Outcome:
    module = import_module(f"benchmarks.{name}")
    if hasattr(module, "outcome"):
        return module.outcome(effort)  # type: ignore[no-any-return]
    scenario = module.scenario(effort)
    return harness.outcome(name, scenario, harness.measure(scenario, effort.repeats))


if __name__ == "__main__":
    sys.exit(main())
