"""Finds calls that have ended: results, failed tasks, records of executions."""

from __future__ import annotations

from cloudtask.delivering import executions, failed
from cloudtask.exceptions import PayloadError
from cloudtask.inspect.values import CallState, FoundCall, Located
from cloudtask.sending import waiting
from cloudtask.stores import FailedCall, store
from cloudtask.stores.results import ResultState, StoredResult


def result_of(key: str) -> StoredResult | None:
    """The result of a call: in the store, or with the effects of an atomic one."""
    from cloudtask.stores.database.results import ResultsIn

    found = store().load_result(key)
    own = store().database
    for alias in waiting.aliases():
        if alias != own and (found is None or found.state is ResultState.FAILED):
            found = ResultsIn(alias).load_result(key) or found
    return found


def of_result(result: StoredResult) -> FoundCall:
    is_success = result.state is ResultState.SUCCEEDED
    return FoundCall(
        id=result.id,
        state=CallState.SUCCEEDED if is_success else CallState.FAILED,
        task=result.task,
        queue=result.queue,
        enqueued_at=result.enqueued_at,
        error=result.error,
    )


def failed_task(key: str) -> FailedCall | None:
    """The failed task of a call; that of one that a Retry repeated has another key."""
    found = store().load_failed(key)
    if found is None and (later := store().find_failed(f"{key}-", limit=1)):
        found = store().load_failed(later[0])
    return found


def of_failed(kept: FailedCall) -> Located:
    try:
        message = failed.opened(kept)
    except PayloadError:
        message = None  # with a key that the settings no longer have
    found = FoundCall(
        id=kept.key.partition("-")[0],
        state=CallState.FAILED,
        task=kept.task,
        queue=kept.queue,
        name=kept.name,
        chain=None if message is None else message.whole,
        tries=kept.attempts,
        enqueued_at=kept.enqueued_at,
        error=kept.error,
        arguments=kept.arguments,
    )
    return Located(found, message)


def executed(key: str) -> Located | None:
    for alias in waiting.aliases():
        is_cancelled = executions.state_of(key, alias)
        if is_cancelled is not None:
            state = CallState.CANCELLED if is_cancelled else CallState.SUCCEEDED
            found = FoundCall(
                id=key, state=state, database=alias, is_cancelled=is_cancelled
            )
            return Located(found)
    return None
