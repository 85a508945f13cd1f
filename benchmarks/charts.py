"""Draws bars as SVG, readable on light and dark pages."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape

WIDTH, LEFT, RIGHT = 800, 300, 70
TOP, STEP, BAR, FOOT = 84, 26, 16, 44
STEEP = 40  # from this largest over the smallest bar on, the scale is logarithmic

# Class of a bar to what the legend says of it.
KINDS = {
    "ours": "cloudtask",
    "kept": "at least once, and survives a crash after the commit",
    "other": "other promises",
}
STYLE = """
  text { font: 13px system-ui, sans-serif; fill: #1f2328 }
  .page { fill: #ffffff } .line { stroke: #d0d7de } .small { font-size: 11px }
  .title { font-size: 15px; font-weight: 600 } .quiet { fill: #57606a }
  .ours { fill: #1a7f5a } .kept { fill: #2f6fd0 } .other { fill: #8b949e }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6edf3 } .page { fill: #161b22 } .line { stroke: #30363d }
    .quiet { fill: #9da7b1 }
    .ours { fill: #3fb68b } .kept { fill: #6ea8fe } .other { fill: #6e7681 }
  }
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """One bar; `kind` is a key of `KINDS`."""

    label: str
    value: float
    kind: str = "other"


class Scale:
    """Values to pixels, linear or logarithmic."""

    def __init__(self, values: Sequence[float]) -> None:
        self._most = max(values, default=0.0) or 1.0
        least = min((value for value in values if value > 0), default=self._most)
        self.is_steep = self._most / least > STEEP
        self._least = 10 ** math.floor(math.log10(least)) if self.is_steep else 0.0

    def at(self, value: float) -> float:
        room = WIDTH - LEFT - RIGHT
        if not self.is_steep:
            return room * value / self._most
        if value <= self._least:
            return 1.0
        share = math.log10(value / self._least) / math.log10(self._most / self._least)
        return room * share

    def ticks(self) -> list[float]:
        if self.is_steep:
            decades = range(int(math.log10(self._most / self._least)) + 1)
            return [self._least * 10**number for number in decades]
        step = 10 ** math.floor(math.log10(self._most))
        for part in (5, 2, 1):
            if self._most / (step / part) <= 6:
                step /= part
                break
        return [step * number for number in range(int(self._most / step) + 1)]


def draw(title: str, unit: str, bars: Sequence[Bar], *, more: bool) -> str:
    """A chart of these bars; `more` tells whether long bars are good."""
    scale = Scale([bar.value for bar in bars])
    better = "more" if more else "less"
    shape = ", logarithmic scale" if scale.is_steep else ""
    height = TOP + STEP * len(bars) + FOOT
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}"'
        f' width="{WIDTH}" height="{height}" role="img" aria-label="{escape(title)}">',
        f"<style>{STYLE}</style>",
        f'<rect class="page" width="{WIDTH}" height="{height}" rx="6"/>',
        f'<text class="title" x="16" y="26">{escape(title)}</text>',
        f'<text class="quiet" x="16" y="46">{escape(unit)}; {better} is better'
        f"{shape}</text>",
        *_legend(bars),
        *_axis(scale, height),
        *(part for n, bar in enumerate(bars) for part in _bar(scale, n, bar)),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _legend(bars: Sequence[Bar]) -> Iterator[str]:
    there = {bar.kind for bar in bars}
    x = 16
    for kind, meaning in KINDS.items():
        if kind in there:
            yield f'<rect class="{kind}" x="{x}" y="58" width="10" height="10"/>'
            yield f'<text class="small" x="{x + 15}" y="67">{meaning}</text>'
            x += 34 + round(6.2 * len(meaning))


def _axis(scale: Scale, height: int) -> Iterator[str]:
    bottom = height - FOOT + 4
    for tick in scale.ticks():
        x = LEFT + scale.at(tick)
        if scale.is_steep and tick == scale.ticks()[0]:
            x = LEFT
        line = f'x1="{x:.1f}" x2="{x:.1f}" y1="{TOP - 6}" y2="{bottom}"'
        yield f'<line class="line" {line}/>'
        place = f'x="{x:.1f}" y="{bottom + 16}" text-anchor="middle"'
        yield f'<text class="small quiet" {place}>{short(tick)}</text>'


def _bar(scale: Scale, number: int, bar: Bar) -> Iterator[str]:
    y, long = TOP + STEP * number, max(scale.at(bar.value), 1.0)
    label = f'x="{LEFT - 8}" y="{y + 13}" text-anchor="end"'
    yield f"<text {label}>{escape(bar.label)}</text>"
    place = f'x="{LEFT}" y="{y}" width="{long:.1f}" height="{BAR}"'
    yield f'<rect class="{bar.kind}" {place} rx="2"/>'
    yield f'<text x="{LEFT + long + 6:.1f}" y="{y + 13}">{short(bar.value)}</text>'


def short(number: float) -> str:
    """Three digits, or all of a large number."""
    if number == 0 or abs(number) >= 1000:
        return f"{number:,.0f}"
    return f"{number:.3g}"
