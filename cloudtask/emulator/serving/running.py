"""Answers RunTask, by gRPC or REST: it waits for the dispatch that it has forced."""

from __future__ import annotations

import asyncio
from concurrent.futures import Future

from cloudtask.emulator.calls import State
from cloudtask.emulator.calls import run_task as begin
from cloudtask.emulator.protocol import Message, Version, errors, from_v2, to_v2
from cloudtask.emulator.queues import view


async def run_task(state: State, version: Version, request: Message) -> Message:
    """The task after its dispatch has ended; raises `ApiError`."""
    with state.lock:
        task, ended = begin(state, to_v2(request, version))
    if ended is not None:
        await _end_of(ended)
    with state.lock:
        return from_v2(view(task, request.response_view), version)


async def _end_of(dispatch: Future[None]) -> None:
    try:
        # A client that hangs up must not end the dispatch.
        await asyncio.shield(asyncio.wrap_future(dispatch))
    except asyncio.CancelledError:
        if not dispatch.cancelled():
            raise
        raise errors.unavailable("The dispatch was abandoned.") from None
