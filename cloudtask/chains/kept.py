"""Keeps the results of chains and groups, under the id of the outermost chain."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from cloudtask import clock, envelope, quotas
from cloudtask.chains import steps
from cloudtask.chains.failure import Failure
from cloudtask.chains.rest import Rest, queue_of
from cloudtask.stores import store
from cloudtask.stores.results import ResultState, StoredResult, result_place

WHOLE = "chain"  # the task of the result that a chain or a group has as a whole


def keep_list(rest: Rest, value: bytes) -> None:
    """Keep the values of a group that ends a chain, under the id of the chain."""
    if len(value) > quotas.RESULT:
        text = f"Its values take {len(value):,} bytes, over {quotas.RESULT:,}."
        _save(rest, ResultState.FAILED, error=text)
        return
    data = envelope.seal_value(value, place=result_place(rest.chain))
    _save(rest, ResultState.SUCCEEDED, value=data)


def keep_failure(rest: Rest, failure: Failure) -> None:
    """Keep the failure of a step as the result of a chain, if its result is kept."""
    keep = rest.keep if rest.is_over else steps.keep_of(rest.lines)
    if keep is not None:
        kept = replace(rest, keep=keep)
        error, traceback = _named(failure), failure.traceback
        _save(kept, ResultState.FAILED, error=error, traceback=traceback)


def _named(failure: Failure) -> str:
    """The error, after the name of the task: a chain or a group has many."""
    name = f"{failure.task} ({failure.id})"
    named = failure.error.startswith(name)
    return failure.error if named else f"{name}: {failure.error}"


def _save(
    rest: Rest,
    state: ResultState,
    *,
    value: bytes | None = None,
    error: str = "",
    traceback: str = "",
) -> None:
    result = StoredResult(
        id=rest.chain,
        task=WHOLE,
        queue=queue_of(rest),
        state=state,
        value=value,
        error=error,
        traceback=traceback,
        enqueued_at=datetime.fromtimestamp(clock.now(), UTC),
    )
    store().save_result(result, timedelta(seconds=rest.keep or 0))
