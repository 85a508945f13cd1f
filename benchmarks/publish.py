"""Measures all scenarios in one run, and writes docs/benchmarks.md with its charts.

    python -m benchmarks.publish             # measure and write
    python -m benchmarks.publish --render    # write the page again, from the same JSON

Run it on a machine that does nothing else. It takes about half an hour.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence

from benchmarks import page, results
from benchmarks.__main__ import PUBLISHED, QUICK, SCENARIOS, measured
from benchmarks.harness import Effort


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.publish")
    parser.add_argument("scenarios", nargs="*", metavar="scenario")
    parser.add_argument("--quick", action="store_true", help="few repeats, for a look")
    parser.add_argument("--render", action="store_true", help="measure nothing")
    options = parser.parse_args()
    if not options.render:
        effort = QUICK if options.quick else PUBLISHED
        _measure(options.scenarios or SCENARIOS, effort)
    page.write(json.loads(page.DATA.read_text(encoding="utf-8")))
    print(f"Written: {page.PAGE} and {page.CHARTS}")
    return 0


def _measure(names: Sequence[str], effort: Effort) -> None:
    """Measure, and write after each scenario, so that an interrupt loses the least."""
    started, before = time.monotonic(), os.getloadavg()[0]
    loads: list[float] = []
    outcomes = []
    for outcome in measured(names, effort):
        outcomes.append(outcome)
        loads.append(os.getloadavg()[0])
        load = (before, sum(loads) / len(loads), loads[-1])
        seconds = time.monotonic() - started
        results.write(page.DATA, outcomes, seconds=seconds, load=load)


if __name__ == "__main__":
    sys.exit(main())
