"""`python -m benchmarks`: measure, compare, and check the budgets."""

from __future__ import annotations

import argparse
import platform
import sys
import time
from importlib import import_module
from importlib.metadata import version

from benchmarks import harness, project

# Modules of this package, each with a `scenario`.
SCENARIOS = (
    "enqueue",
    "round_trip",
    "handler",
    "imports",
    "iteration",
    "sealing",
    "carriers",
)
QUICK = harness.Effort(quick=True, repeats=7)
FULL = harness.Effort(quick=False, repeats=25)
PACKAGES = ("Django", "celery", "dramatiq", "huey", "django-tasks")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks")
    parser.add_argument("scenarios", nargs="*", metavar="scenario")
    parser.add_argument("--quick", action="store_true", help="fewer repeats")
    parser.add_argument("--strict", action="store_true", help="fail on a missed budget")
    options = parser.parse_args()
    if unknown := set(options.scenarios) - set(SCENARIOS):
        parser.error(f"no scenario {', '.join(unknown)}; known are {SCENARIOS}")
    effort = QUICK if options.quick else FULL
    started = time.monotonic()
    project.set_up()
    versions = ", ".join(f"{package} {version(package)}" for package in PACKAGES)
    print(f"Python {platform.python_version()}, {versions}; best of {effort.repeats}")
    met = [_run(name, effort) for name in options.scenarios or SCENARIOS]
    if not options.scenarios:
        met.append(import_module("benchmarks.commits").show())
    print(f"\n{time.monotonic() - started:.0f} s in all")
    if all(met):
        print("All budgets are met.")
        return 0
    print("Some budgets are missed.")
    return 1 if options.strict else 0


def _run(name: str, effort: harness.Effort) -> bool:
    scenario = import_module(f"benchmarks.{name}").scenario(effort)
    return harness.report(scenario, harness.measure(scenario, effort.repeats))


if __name__ == "__main__":
    sys.exit(main())
