"""Writes docs/benchmarks.md and its charts from the JSON of a run."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks.charts import Bar, draw, short

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "benchmarks.md"
DATA = ROOT / "docs" / "benchmarks.json"
CHARTS = ROOT / "docs" / "images" / "benchmarks"
OURS = re.compile(r"^cloudtask\b(?!.*gcloud)")
METHOD = "https://github.com/cloudtask/cloudtask/tree/main/benchmarks"
HEAD = f"""# Benchmarks

`python -m benchmarks.publish` measures all of this in one run, and writes this page.
Figures of other runs and machines are not comparable. [The method]({METHOD}) explains
each word.
"""

Found = Mapping[str, Any]


def write(found: Found) -> None:
    """Write the page, and a chart for each measure that has one."""
    CHARTS.mkdir(parents=True, exist_ok=True)
    for old in CHARTS.glob("*.svg"):
        old.unlink()
    for scenario in found["scenarios"]:
        for measure in scenario["charts"]:
            path = CHARTS / chart_name(scenario, measure)
            if drawn := chart(scenario, measure):
                path.write_text(drawn, encoding="utf-8")
    PAGE.write_text(page(found), encoding="utf-8")


def chart_name(scenario: Found, measure: str) -> str:
    words = re.sub(r"[^a-z0-9]+", "-", f"{scenario['name']} {measure}".lower())
    return f"{words.strip('-')}.svg"


def chart(scenario: Found, measure: str) -> str:
    """The bars of one measure; empty if it has no figures."""
    figures = _of(scenario, measure)
    if not figures:
        return ""
    by = "best" if scenario["by_best"] else "median"
    figures = sorted(figures, key=lambda one: one[by], reverse=figures[0]["more"])
    bars = [
        Bar(label=one["case"], value=one[by], kind=_kind(scenario, one["case"]))
        for one in figures
    ]
    several = len({figure["measure"] for figure in scenario["figures"]}) > 1
    title = f"{scenario['title']}: {measure}" if several else scenario["title"]
    return draw(title, figures[0]["unit"], bars, more=figures[0]["more"])


def _kind(scenario: Found, case: str) -> str:
    if OURS.match(case):
        return "ours"
    return "kept" if case in scenario["keeps"] else "other"


def _of(scenario: Found, measure: str) -> list[Any]:
    return [one for one in scenario["figures"] if one["measure"] == measure]


def page(found: Found) -> str:
    parts = [HEAD, _machine(found), *_budgets(found)]
    for scenario in found["scenarios"]:
        parts += _scenario(scenario)
    return "\n".join(parts)


def _machine(found: Found) -> str:
    facts, load = found["machine"], found["load"]
    packages = ", ".join(f"{name} {has}" for name, has in found["versions"].items())
    return f"""The run of {facts["date"]} UTC took {found["seconds"] / 60:.1f} minutes.

* *Machine*: {facts["processor"]}, {facts["cores"]} cores, {facts["system"]}
* *Load* before, during and after: {", ".join(f"{one:.1f}" for one in load)}.
  Above {facts["cores"]}, other work of the machine slows all cases.
* *Versions*: `Python {facts["python"]}, {packages}`
"""


def _budgets(found: Found) -> Iterator[str]:
    """All budgets, the missed ones first."""
    every = [one for scenario in found["scenarios"] for one in scenario["budgets"]]
    missed = [one for one in every if not one["met"]]
    yield "## Budgets\n"
    yield f"{len(every) - len(missed)} of {len(every)} budgets are met in this run.\n"
    if found["load"][1] > found["machine"]["cores"]:
        yield (
            "The machine was busy. Other work disturbs cases of processes and of the"
            " disk most, so these ratios change from run to run.\n"
        )
    yield "| budget | figure | limit | |\n|---|---|---|---|"
    for one in [*missed, *(one for one in every if one["met"])]:
        bound = "at least" if one["least"] else "at most"
        verdict = "met" if one["met"] else f"**missed** {one['reason']}".strip()
        figure = f"{short(one['figure'])}{one['unit']}"
        yield f"| {one['what']} | {figure} | {bound} {one['limit']:g} | {verdict} |"
    yield ""


def _scenario(scenario: Found) -> Iterator[str]:
    yield f"## {scenario['title']}\n"
    if scenario["about"]:
        yield f"{scenario['about']}\n"
    for measure in scenario["charts"]:
        if _of(scenario, measure):
            name = chart_name(scenario, measure)
            yield f"![{scenario['title']}: {measure}](images/benchmarks/{name})\n"
    yield from _table(scenario)
    for note in scenario["notes"]:
        yield f"* {note}"
    for case, reason in scenario["missing"].items():
        yield f"* Not measured: {case}, because of `{reason.replace('`', '')[:200]}`"
    yield ""


def _table(scenario: Found) -> Iterator[str]:
    """Each measure in full, or the medians of several side by side."""
    measures = list(dict.fromkeys(one["measure"] for one in scenario["figures"]))
    if not measures:
        return
    if len(measures) == 1 or scenario["by_best"]:
        for measure in measures:
            yield from _in_full(scenario, _of(scenario, measure))
        return
    cases = list(dict.fromkeys(one["case"] for one in scenario["figures"]))
    units = {one["measure"]: one["unit"] for one in scenario["figures"]}
    cells = {(one["case"], one["measure"]): one for one in scenario["figures"]}
    named = [f"{measure}, {units[measure]}" for measure in measures]
    table = [
        ["", *named],
        *([c, *(_cell(scenario, cells, c, m) for m in measures)] for c in cases),
    ]
    if len(measures) > len(cases):
        table = [list(column) for column in zip(*table, strict=True)]
    yield f"The medians, with the ratio to {scenario['baseline']}:\n"
    for number, row in enumerate(table):
        yield f"| {' | '.join(row)} |"
        if number == 0:
            yield "|---" * len(row) + "|"
    yield ""


def _cell(scenario: Found, cells: Mapping[Any, Any], case: str, measure: str) -> str:
    one = cells.get((case, measure))
    if one is None:
        return "–"  # noqa: RUF001  an empty cell
    base = cells.get((scenario["baseline"], measure))
    ratio = (
        f" ({one['median'] / base['median']:.2f}x)" if base and base["median"] else ""
    )
    spread = f" ± {short(one['sd'])}" if one["sd"] else ""
    return f"{short(one['median'])}{spread}{ratio}"


def _in_full(scenario: Found, figures: list[Any]) -> Iterator[str]:
    by = "best" if scenario["by_best"] else "median"
    base = next((one for one in figures if one["case"] == scenario["baseline"]), None)
    what = f"{figures[0]['measure']}, {figures[0]['unit']}"
    yield f"| {what} | best | median | mean | sd | n | ratio |"
    yield "|---" * 7 + "|"
    for one in figures:
        cells = [short(one[column]) for column in ("best", "median", "mean")]
        cells += [short(one["sd"]) if one["sd"] is not None else "", str(one["n"])]
        cells += [f"{one[by] / base[by]:.2f}x" if base and base[by] else ""]
        yield f"| {one['case']} | {' | '.join(cells)} |"
    yield ""
