"""Misbehaves on purpose, within the limits of at-least-once delivery.

`--chaos duplicate=0.02,delay=0.05,reorder,drop-response=0.01,seed=7`
"""

from __future__ import annotations

import random
from dataclasses import dataclass, fields, replace
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Chaos:
    """How often which fault occurs.

    `duplicate`, `delay` and `drop_response` are probabilities per dispatch: the request
    is sent a second time; it is sent up to `max_delay` seconds late; the response of
    the target is lost, so that the task is tried again. With `reorder` the due tasks
    leave in random order. The same `seed` gives the same faults.
    """

    duplicate: float = 0.0
    delay: float = 0.0
    drop_response: float = 0.0
    reorder: bool = False
    max_delay: float = 2.0
    seed: int | None = None

    def __post_init__(self) -> None:
        for name in ("duplicate", "delay", "drop_response"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"chaos: {name} is a probability, from 0 to 1.")
        if self.max_delay < 0:
            raise ValueError("chaos: max_delay is a number of seconds.")


@dataclass(frozen=True, slots=True)
class Mischief:
    """The faults of one dispatch; `delay` and `duplicate_after` are in seconds."""

    delay: float = 0.0
    duplicate_after: float | None = None
    drops_response: bool = False


def plan(chaos: Chaos, dice: random.Random) -> Mischief:
    """Roll the dice for one dispatch; always the same number of rolls."""
    late, again, lost = dice.random(), dice.random(), dice.random()
    wait, gap = dice.random(), dice.random()
    return Mischief(
        delay=wait * chaos.max_delay if late < chaos.delay else 0.0,
        duplicate_after=gap * chaos.max_delay if again < chaos.duplicate else None,
        drops_response=lost < chaos.drop_response,
    )


def parse_chaos(text: str) -> Chaos:
    """The value of `--chaos`; `ValueError` names the wrong part."""
    chaos = Chaos()
    for item in filter(None, (part.strip() for part in text.split(","))):
        name, _, value = item.partition("=")
        chaos = _with(chaos, name.strip().replace("-", "_"), value.strip())
    return chaos


def _with(chaos: Chaos, name: str, value: str) -> Chaos:
    known = {each.name for each in fields(Chaos)}
    if name not in known:
        shown = ", ".join(sorted(each.replace("_", "-") for each in known))
        raise ValueError(f"chaos: {name!r} is not one of {shown}.")
    if name == "reorder":
        return replace(chaos, reorder=value.lower() in ("", "1", "true", "yes"))
    try:
        change: dict[str, Any] = {name: int(value) if name == "seed" else float(value)}
    except ValueError:
        raise ValueError(f"chaos: {name}={value!r} is not a number.") from None
    return replace(chaos, **change)
