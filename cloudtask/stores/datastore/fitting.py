"""The rules of each kind of entity: see `cloudtask.stores.fitting`.

A Datastore takes a value of any type for any property.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from types import NoneType
from typing import Any, get_args, get_type_hints

from cloudtask.envelope import Place
from cloudtask.runs import (
    FailureState,
    RowFailure,
    Run,
    RunState,
    Shard,
    ShardState,
)
from cloudtask.stores.fitting import LARGE, NEUTRAL, SMALL, Rule, Rules
from cloudtask.stores.results import ResultState

BIGGEST = 2**30  # bytes in chunks

_SMALL = frozenset(
    {
        *("part", "generation", "fence", "attempts", "seq", "deaths", "sweeps"),
        *("shard", "index", "starts", "count"),
    }
)


def _rule(name: str, kind: type, neutral: Any = None, *, is_null: bool = False) -> Rule:
    most = SMALL if kind is int and name in _SMALL else LARGE
    if neutral is None and not is_null:
        neutral = NEUTRAL[kind]
    return Rule(name, kind, neutral, is_null, most)


def _states(name: str, values: Iterator[str], neutral: str) -> Rule:
    return Rule(name, str, neutral, choices=frozenset(values))


def _of_record(record: Any) -> Iterator[Rule]:
    """The rules of the fields of a record, but for its state."""
    for name, hint in get_type_hints(record).items():
        kinds = [one for one in get_args(hint) or (hint,) if one is not NoneType]
        if name != "state":
            is_null = len(get_args(hint)) > len(kinds)
            yield _rule(name, kinds[0], is_null=is_null)


def _texts(*names: str) -> Iterator[Rule]:
    return (_rule(name, str) for name in names)


def _times(*names: str) -> Iterator[Rule]:
    return (_rule(name, datetime) for name in names)


def _blob(prefix: str = "blob") -> Iterator[Rule]:
    yield _rule(f"{prefix}_name", str, is_null=True)
    yield Rule(f"{prefix}_size", int, 0, is_null=True, most=BIGGEST)
    yield _rule(f"{prefix}_digest", str, is_null=True)
    yield _rule(f"{prefix}_inline", bytes, is_null=True)


def _rules(*some: Any) -> Rules:
    rules = [_rule("mark", str)]
    for one in some:
        rules += [one] if isinstance(one, Rule) else [*one]
    return Rules(rules)


_RULES: Mapping[str, Rules] = {
    "CloudtaskRun": _rules(
        _of_record(Run),
        _states("state", (one.value for one in RunState), "failed"),
        _blob(),
        _blob("plan"),
        _texts("at", "place"),
        _times("touched_at"),
        _rule("unsettled", bool),
    ),
    "CloudtaskShard": _rules(
        _of_record(Shard),
        _states("state", (one.value for one in ShardState), "waiting"),
        _texts("undone_of"),
        _times("touched_at"),
    ),
    "CloudtaskShardCount": _rules(_rule("count", int)),
    "CloudtaskRowFailure": _rules(
        _of_record(RowFailure),
        _states("state", (one.value for one in FailureState), "failed"),
        _texts("due", "given_up"),
    ),
    "CloudtaskChunk": _rules(
        _rule("data", bytes), _rule("saved_at", datetime, is_null=True)
    ),
    "CloudtaskPayload": _rules(_blob(), _rule("is_done", bool), _times("saved_at")),
    "CloudtaskLateStart": _rules(_rule("starts", int), _times("noted_at")),
    "CloudtaskUpkeep": _rules(_texts("report"), _times("ran_at")),
    "CloudtaskCallMark": _rules(
        _rule("is_begun", bool), _rule("is_cancelled", bool), _times("noted_at")
    ),
    "CloudtaskFailedTask": _rules(
        _blob(),
        _texts("task", "queue", "name", "arguments", "error", "traceback"),
        _texts("kind", "group", "at", "place", "cluster"),
        _rule("attempts", int),
        _times("enqueued_at", "failed_at"),
    ),
    "CloudtaskResult": _rules(
        _blob(),
        _texts("task", "queue", "error", "traceback", "at"),
        _states("state", (one.value for one in ResultState), "FAILED"),
        _times("enqueued_at", "finished_at", "expires_at", "fresh_until"),
    ),
    "CloudtaskGroup": _rules(
        _blob(),
        _rule("total", int),
        _rule("is_done", bool),
        _rule("is_partial", bool),
        _texts("at"),
        _times("created_at", "touched_at"),
    ),
    "CloudtaskSchedule": _rules(
        _texts("task", "schedule", "running"),
        _rule("enabled", bool),
        _rule("version", int),
        _rule("missed", int),
        _rule("skipped", int),
        _times("last_at", "seen_at"),
        _rule("enqueued_at", datetime, is_null=True),
        _rule("running_until", datetime, is_null=True),
    ),
    "CloudtaskGroupFailure": _rules(_rule("value", bytes)),
    "CloudtaskGroupMember": _rules(_rule("value", bytes)),
}
_NOUNS = {
    "CloudtaskRun": "iteration",
    "CloudtaskShard": "iteration",
    "CloudtaskShardCount": "iteration",
    "CloudtaskRowFailure": "iteration",
    "CloudtaskChunk": "chunk",
    "CloudtaskPayload": "payload",
    "CloudtaskLateStart": "late start",
    "CloudtaskUpkeep": "upkeep",
    "CloudtaskCallMark": "mark",
    "CloudtaskFailedTask": "failed",
    "CloudtaskResult": "result",
    "CloudtaskGroup": "group",
    "CloudtaskGroupFailure": "member",
    "CloudtaskGroupMember": "member",
    "CloudtaskSchedule": "schedule",
}
KINDS = tuple(_RULES)
_PARTS = {"CloudtaskShard": "shard ", "CloudtaskRowFailure": "row "}


def fitted(kind: str, values: dict[str, Any]) -> tuple[Mapping[str, Any], str | None]:
    """The values of an entity, and the name of the first that does not fit.

    Neutral values are in the place of those that don't fit.
    """
    rules = _RULES.get(kind)
    name = rules.misfit(values) if rules is not None else None
    if rules is None or name is None:
        return values, None
    return {**values, **rules.misfits(values)}, name


def place_of(kind: str, key: str, name: str) -> Place:
    """The place of a property, as sentences name it."""
    owner, _, part = key.partition(":")
    if kind in _PARTS:
        part = part.lstrip("0") or "0" if kind == "CloudtaskShard" else part
        return _NOUNS[kind], owner, f"{_PARTS[kind]}{part}", name
    return _NOUNS.get(kind, kind), key, name
