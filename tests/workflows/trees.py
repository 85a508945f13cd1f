"""Random trees of chains and groups, and what plain calls of them give."""

from __future__ import annotations

from random import Random
from typing import Any

from cloudtask import chain, group
from tests.workflows import tasks

KINDS = ("add", "atomic", "async", "none", "tuple", "si")


def _call(random: Random, *, is_first: bool) -> tuple[Any, Any]:
    """A signature, and a function of the value before it that gives its value."""
    number = random.randrange(100)
    kind = random.choice(KINDS)
    if is_first or kind == "si":
        value = random.choice([number, None, (number, None), [], {"a": (number,)}])
        made = tasks.give.s(value) if is_first else tasks.give.si(value)
        return made, lambda before: value
    if kind == "none":
        return tasks.nothing.si(), lambda before: None
    of = {"atomic": tasks.pair_atomically, "async": tasks.apair}.get(kind, tasks.pair)
    return of.s(number), lambda before: (before, number)


def tree(
    random: Random, depth: int, *, is_first: bool = True, is_member: bool = False
) -> tuple[Any, Any]:
    """A chain, a group or a call of up to `depth` levels, and its plain evaluation."""
    shape = random.choice(("call", "chain", "group")) if depth else "call"
    if shape == "call":
        return _call(random, is_first=is_first)
    count = random.randrange(0, 4)
    if shape == "group":
        made = [tree(random, depth - 1, is_first=is_first) for _ in range(count)]
        values = [evaluate for _, evaluate in made]
        return (
            group([one for one, _ in made]),
            lambda before: [evaluate(before) for evaluate in values],
        )
    made = []
    for index in range(count + 1):
        made.append(tree(random, depth - 1, is_first=is_first and index == 0))

    def evaluate(before: Any) -> Any:
        for _, one in made:
            before = one(before)
        return before

    return chain(*(one for one, _ in made)), evaluate
