"""Figures and budgets of the benchmarks, printed as tables or kept as JSON."""

from __future__ import annotations

import json
import os
import platform
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = (
    "Django",
    "google-cloud-tasks",
    "grpcio",
    "gunicorn",
    "psycopg",
    "PyMySQL",
    "celery",
    "django-tasks",
    "django-tasks-db",
    "dramatiq",
    "huey",
    "procrastinate",
    "redis",
    "rq",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """Samples of one measure of one case."""

    case: str
    measure: str
    unit: str
    samples: Sequence[float]
    more: bool = False  # more is better

    @property
    def best(self) -> float:
        return max(self.samples) if self.more else min(self.samples)

    @property
    def median(self) -> float:
        return statistics.median(self.samples)

    def as_json(self) -> dict[str, Any]:
        several = len(self.samples) > 1
        return {
            "case": self.case,
            "measure": self.measure,
            "unit": self.unit,
            "more": self.more,
            "mean": statistics.fmean(self.samples),
            "sd": statistics.stdev(self.samples) if several else None,
            "n": len(self.samples),
            "best": self.best,
            "median": self.median,
        }


# Why a budget is missed, where nothing else is known of it.
TIME = "This is a time, not a ratio: a slower or a busy machine takes longer."
COUNT = "Other work of the machine does not change this: the code has changed."
NEAR = "The figure varies by some percent from run to run, and the limit is near."


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """A figure beside its budget; `reason` says why a budget is missed."""

    what: str
    figure: float
    limit: float
    reason: str
    unit: str = "x"
    least: bool = False  # the budget is a lower limit

    @property
    def met(self) -> bool:
        if self.least:
            return self.figure >= self.limit
        return self.figure <= self.limit

    def __str__(self) -> str:
        mark = "met   " if self.met else "MISSED"
        bound = "at least" if self.least else "at most"
        said = (
            f"{mark} {self.what}: {self.figure:.4g}{self.unit}, {bound} {self.limit:g}"
        )
        return said if self.met else f"{said}. {self.reason}"

    def as_json(self) -> dict[str, Any]:
        values = {name: getattr(self, name) for name in self.__slots__}
        return {**values, "met": self.met}


@dataclass(slots=True, kw_only=True)
class Outcome:
    """All that one scenario found."""

    name: str
    title: str
    baseline: str
    seconds: float = 0.0  # that the measurement took
    about: str = ""  # what the cases do, and what they don't do
    by_best: bool = False  # ratios are of the best samples, else of the medians
    charts: Sequence[str] = ()  # measures that are drawn
    keeps: Sequence[str] = ()  # peers that make the promises of the baseline
    figures: Sequence[Figure] = ()
    verdicts: Sequence[Verdict] = ()
    notes: Sequence[str] = ()
    missing: Mapping[str, str] = field(default_factory=dict)  # case to reason

    @property
    def met(self) -> bool:
        return all(verdict.met for verdict in self.verdicts)

    def measures(self) -> list[str]:
        return list(dict.fromkeys(figure.measure for figure in self.figures))

    def figure(self, case: str, measure: str) -> Figure | None:
        for figure in self.figures:
            if (figure.case, figure.measure) == (case, measure):
                return figure
        return None

    def ratio(self, figure: Figure, reference: Figure) -> float:
        if self.by_best:
            return figure.best / reference.best if reference.best else 0.0
        return figure.median / reference.median if reference.median else 0.0

    def show(self) -> None:
        took = f" ({self.seconds:.0f} s)" if self.seconds else ""
        print(f"\n{self.title}{took}")
        for measure in self.measures():
            self._show(measure)
        for case, reason in self.missing.items():
            print(f"  not measured: {case}: {reason}")
        for verdict in self.verdicts:
            print(f"  {verdict}")

    def _show(self, measure: str) -> None:
        figures = [each for each in self.figures if each.measure == measure]
        reference = self.figure(self.baseline, measure) or figures[0]
        columns = ("best", "median", "mean", "sd", "n", "ratio")
        print(f"  {measure + ', ' + figures[0].unit:44}", end="")
        print("".join(f"{column:>11}" for column in columns))
        for figure in figures:
            found = figure.as_json()
            ratio = self.ratio(figure, reference)
            print(f"    {figure.case:42}", end="")
            for column in columns[:3]:
                print(f"{_short(found[column]):>11}", end="")
            print(f"{_short(found['sd']):>11}{found['n']:>11}{ratio:>10.2f}x")

    def as_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "title": self.title,
            "baseline": self.baseline,
            "seconds": self.seconds,
            "about": self.about,
            "by_best": self.by_best,
            "charts": list(self.charts),
            "keeps": list(self.keeps),
            "figures": [figure.as_json() for figure in self.figures],
            "budgets": [verdict.as_json() for verdict in self.verdicts],
            "notes": list(self.notes),
            "missing": dict(self.missing),
        }


def _short(number: float | None) -> str:
    if number is None:
        return "-"
    return f"{number:,.0f}" if abs(number) >= 1000 else f"{number:.4g}"


def machine() -> dict[str, Any]:
    return {
        "system": platform.platform(),
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "load": os.getloadavg(),
        "date": time.strftime("%Y-%m-%d %H:%M", time.gmtime()),
    }


def _processor() -> str:
    try:
        facts = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor()
    names = [line for line in facts.splitlines() if line.startswith("model name")]
    return names[0].partition(":")[2].strip() if names else platform.machine()


def versions(packages: Sequence[str] = PACKAGES) -> dict[str, str]:
    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found


def write(path: Path, outcomes: Sequence[Outcome], **facts: Any) -> None:
    """Write all that was found, with the machine and the versions, as JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scenarios = [outcome.as_json() for outcome in outcomes]
    found = {"machine": machine(), "versions": versions(), **facts}
    text = json.dumps({**found, "scenarios": scenarios}, indent=1)
    path.write_text(text + "\n", encoding="utf-8")
