"""Reads SQL as tokens: it has what a tree of expressions does not show."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from itertools import pairwise

_TOKEN = re.compile(
    r"'(?:[^'\\]|''|\\.)*'"  # a string
    r'|"(?:[^"]|"")*"|`(?:[^`]|``)*`'  # a quoted name
    r"|--[^\n]*|/\*.*?\*/"  # a comment
    r"|\w+|[^\w\s]",
    re.DOTALL,
)
AGGREGATE = re.compile(
    r"COUNT|SUM|AVG|MIN|MAX|TOTAL|STDDEV\w*|VAR(IANCE|_POP|_SAMP)|GROUP_CONCAT"
    r"|(STRING|ARRAY|JSONB?|XML)_?AGG|JSONB?_OBJECT_?AGG|JSON_ARRAYAGG"
    r"|BIT_(AND|OR|XOR)|BOOL_(AND|OR)|EVERY|CORR|COVAR_\w+|MODE|PERCENTILE_\w+"
)


def of(sql: str) -> list[str]:
    """The tokens of a piece of SQL, as they are written."""
    return _TOKEN.findall(sql)


def names(sql: str) -> set[str]:
    """The names in a piece of SQL, of tables for example."""
    return {one.strip('"`') for one in of(sql)}


def calls(tokens: Sequence[str]) -> Iterator[str]:
    """The names of functions that are called. SQLite's MIN and MAX of several values
    are those of one row."""
    for place, one in enumerate(tokens[:-1]):
        if tokens[place + 1] != "(":
            continue
        if one not in ("MIN", "MAX") or not _has_several(tokens[place + 2 :]):
            yield one


def _has_several(tokens: Sequence[str]) -> bool:
    """Whether a call whose arguments begin here has more than one."""
    depth = 0
    for one in tokens:
        depth += (one == "(") - (one == ")")
        if depth < 0 or (depth == 0 and one == ","):
            return depth == 0
    return False


def outermost(tokens: Sequence[str]) -> list[str]:
    """The tokens in capitals, without names and strings, and without subqueries that
    are values. A subquery in FROM is a part of the query itself."""
    outer: list[str] = []
    skipped = 0  # parentheses open since a subquery began that is a value
    for one, following in zip(tokens, [*tokens[1:], ""], strict=True):
        if one == ")" and skipped:
            skipped -= 1
        elif one == "(" and (skipped or _is_value(outer, following)):
            skipped += 1
        elif not skipped and one[0] not in "'\"`" and one[:2] not in ("--", "/*"):
            outer.append(one.upper())
    return outer


def _is_value(before: Sequence[str], following: str) -> bool:
    """Whether a parenthesis after `before` begins a subquery that is a value."""
    if following.upper() not in ("SELECT", "WITH"):
        return False
    return not before or before[-1] not in ("FROM", "JOIN", "LATERAL")


def columns(tokens: Sequence[str]) -> set[tuple[str, str]]:
    """The columns that stand behind the name of a table, with that name."""
    bare = [one.strip('"`') for one in tokens]
    return {
        (bare[place - 1], bare[place + 1])
        for place in range(1, len(bare) - 1)
        if bare[place] == "."
    }


def ungrouped(sql: str, aliases: Collection[str]) -> set[tuple[str, str]]:
    """The columns of some tables in HAVING, outside of aggregates, by which the query
    is not grouped. An expression that it is grouped by does not count."""
    tokens = of(sql)
    upper = [one.upper() for one in tokens]
    if "HAVING" not in upper:
        return set()
    having = upper.index("HAVING")
    pairs = list(pairwise(upper[:having]))
    start = len(pairs) - pairs[::-1].index(("GROUP", "BY")) + 1
    grouped = [columns(one) for one in _parts(tokens[start:having]) if len(one) == 3]
    used = columns(_without_aggregates(tokens[having:])).difference(*grouped)
    return {(table, name) for table, name in used if table in aliases}


def _parts(tokens: Sequence[str]) -> list[list[str]]:
    """The tokens between commas that are in no parenthesis."""
    parts: list[list[str]] = [[]]
    depth = 0
    for one in tokens:
        depth += (one == "(") - (one == ")")
        if one == "," and depth == 0:
            parts.append([])
        else:
            parts[-1].append(one)
    return parts


def _without_aggregates(tokens: Sequence[str]) -> list[str]:
    """The tokens without calls of aggregates."""
    left: list[str] = []
    depth = 0  # parentheses open since the name of an aggregate
    for one in tokens:
        is_call = one == "(" and bool(left) and AGGREGATE.fullmatch(left[-1].upper())
        if depth or is_call:
            depth += (one == "(") - (one == ")")
        else:
            left.append(one)
    return left
