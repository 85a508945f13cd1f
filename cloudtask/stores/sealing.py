"""Seals the values that a store keeps and that are decoded later.

Anyone who can write to the tables or entities, but does not know SECRET_KEY, must not
decide what is decoded. Each value is therefore sealed together with its run, its row
and its column. A value that was altered, or moved from another place, is refused.
"""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

from cloudtask.envelope import (
    Place,
    seal_text,
    seal_value,
    unseal_text,
    unseal_value,
)
from cloudtask.exceptions import BadSignature
from cloudtask.runs import RowFailure, Run, RunState, Shard, UnreadableRun

SHARD_KEYS = ("low", "high", "cursor", "suspect")


def run_place(run_id: str, column: str) -> Place:
    return "iteration", run_id, column


def shard_place(run_id: str, index: int, column: str) -> Place:
    return "iteration", run_id, f"shard {index}", column


def failure_place(run_id: str, digest: str) -> Place:
    return "iteration", run_id, f"row {digest}", "key"


# Runs


def sealed_run(run: Run) -> Run:
    """The run for the store. Its readable task and queue are also sealed, with the
    options."""
    options = f"{run.task}\n{run.queue}\n".encode() + run.options
    rest = None
    if run.rest is not None:
        rest = sealed_rest(run.id, run.rest)
    return replace(
        run,
        options=seal_value(options, place=run_place(run.id, "options")),
        description=sealed_description(run.id, run.description),
        rest=rest,
    )


def sealed_rest(run_id: str, rest: str) -> str:
    return seal_text(rest, place=run_place(run_id, "rest"))


def sealed_description(run_id: str, description: bytes) -> bytes:
    return seal_value(description, place=run_place(run_id, "description"))


def opened_run(run: Run) -> tuple[Run, str]:
    """The run with opened values, and the reason if a value was refused, else "".

    A refused value is empty in the run.
    """
    values: dict[str, Any] = {"options": b"", "description": b"", "rest": None}
    try:
        values["rest"] = _rest(run)
        values["options"] = _options(run)
        if not run.is_summary:
            place = run_place(run.id, "description")
            values["description"] = unseal_value(run.description, place=place)
    except BadSignature as error:
        return replace(run, **values), str(error)
    return replace(run, **values), ""


def _rest(run: Run) -> str | None:
    if run.rest is None and (run.is_planned or not run.part):
        return None
    return unseal_text(run.rest, place=run_place(run.id, "rest"))


def _options(run: Run) -> bytes:
    place = run_place(run.id, "options")
    task, queue, options = unseal_value(run.options, place=place).split(b"\n", 2)
    for column, stored in (("task", task), ("queue", queue)):
        if stored != getattr(run, column).encode(errors="surrogatepass"):
            value = " / ".join(run_place(run.id, column))
            raise BadSignature(
                f"The stored value {value} is refused: it is not what was stored."
            )
    return options


def unreadable_run(run: Run, why: str) -> UnreadableRun:
    """The run for a list, as it will be once it is loaded."""
    values = {f.name: getattr(run, f.name) for f in fields(Run)}
    return UnreadableRun(**values | {"state": RunState.FAILED, "error": why})


# Shards


def sealed_keys(shard: Shard, before: Shard | None = None) -> dict[str, Any]:
    """The keys of a shard for the store.

    An open bound is sealed as well: NULL is no key that was stored, and would let a
    shard walk the rows of others. Only a `suspect` may be NULL. Keys equal to those of
    `before`, which was read from the store, are already sealed.
    """
    keys: dict[str, Any] = {}
    for column in SHARD_KEYS:
        key = getattr(shard, column)
        is_new = before is None or key != getattr(before, column)
        if is_new and not _is_no_suspect(column, key):
            key = seal_text(key, place=shard_place(shard.run, shard.index, column))
        keys[column] = key
    return keys


def opened_shard(shard: Shard) -> Shard:
    """The shard with its keys; raises BadSignature for one that is refused."""
    keys: dict[str, Any] = {}
    for column in SHARD_KEYS:
        key = getattr(shard, column)
        if not _is_no_suspect(column, key):
            key = unseal_text(key, place=shard_place(shard.run, shard.index, column))
        keys[column] = key
    return replace(shard, **keys)


def _is_no_suspect(column: str, key: str | None) -> bool:
    return key is None and column == "suspect"


# Rows that failed


def sealed_key(failure: RowFailure, digest: str) -> str:
    return seal_text(failure.key, place=failure_place(failure.run, digest))


def opened_key(run_id: str, digest: str, key: str) -> str:
    """The key of a failure; raises BadSignature if it is refused."""
    return unseal_text(key, place=failure_place(run_id, digest)) or ""


def shown_key(run_id: str, digest: str, key: str) -> dict[str, str]:
    """The text of a failure in a list: the key, or else why it is refused."""
    try:
        return {"key": opened_key(run_id, digest, key)}
    except BadSignature as error:
        return {"key": "", "error": str(error), "traceback": ""}
