"""Captures the context of the caller, as texts that travel in the sealed message."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from contextvars import copy_context
from functools import partial
from typing import Any

from cloudtask.carriers.chosen import Chosen, chosen, state, telemetry, tried
from cloudtask.carriers.protocols import Telemetry, Values
from cloudtask.exceptions import (
    CloudTaskError,
    EnqueueError,
    PayloadTooLarge,
    UnsupportedValue,
)
from cloudtask.message import Carried

MOST = 2048  # bytes that the context of a call may take, as JSON

logger = logging.getLogger("cloudtask")

NOTHING = Carried()


def capture(task: str) -> Carried:
    """The context that calls of `task` take along from here.

    Raises EnqueueError, UnsupportedValue or PayloadTooLarge if a carrier of the project
    fails. The context variables of the caller stay as they are.
    """
    if state.is_off:
        return NOTHING
    found = chosen()
    return NOTHING if state.is_off else copy_context().run(_captured, found, task)


def _captured(found: Chosen, task: str) -> Carried:
    project = _as_text({one.name: _required(one, task) for one in found.project})
    if len(project) > MOST:
        names = ", ".join(one.name for one in found.project)
        raise PayloadTooLarge(
            f"Task {task} was not enqueued: its carriers ({names}) take "
            f"{len(project):,} bytes, more than {MOST:,}. Carry an id instead."
        )
    return _with(found.telemetry, {}, project, "capture")


def following(carried: Carried) -> Carried:
    """`carried` for the next step of a run: telemetry may add where it was made."""
    if state.is_unobserved:
        return carried
    before = loaded(carried.telemetry)
    return _with(telemetry(), before, carried.project, "following")


def _with(
    observers: tuple[Telemetry, ...],
    before: Mapping[str, Values],
    project: str,
    method: str,
) -> Carried:
    """Context that travels. Each of `observers` adds to it while there is room."""
    found: dict[str, Values | None] = dict(before)
    for one in observers:
        given = () if method == "capture" else (before.get(one.name),)
        values = tried(one, method, partial(_optional, one, method, *given))
        more = {**found, one.name: values}
        if len(project) + len(_as_text(more)) <= MOST:
            found = more
        else:
            logger.warning("Carrier %s captured too much: it is left out.", one.name)
    return Carried(project, _as_text(found))


def _optional(one: Telemetry, method: str, *given: Any) -> Values | None:
    return _checked(one, getattr(one, method)(*given))


def _required(carrier: Any, task: str) -> Values | None:
    try:
        return _checked(carrier, carrier.capture())
    except CloudTaskError:
        raise
    except Exception as error:
        raise EnqueueError(
            f"Task {task} was not enqueued: carrier {carrier.name!r} failed with "
            f"{type(error).__name__}."
        ) from error


def _checked(carrier: Any, values: Any) -> Values | None:
    if values is None:
        return None
    kinds = ""
    if isinstance(values, Mapping):
        if all(isinstance(one, str) for pair in values.items() for one in pair):
            return values
        pairs = {f"{type(k).__name__} to {type(v).__name__}" for k, v in values.items()}
        kinds = f" of {', '.join(sorted(pairs))}"
    elif hasattr(values, "close"):
        values.close()  # a coroutine would warn that it was never awaited
    raise UnsupportedValue(
        f"capture() of carrier {carrier.name!r} must return a dict of str to str, or "
        f"None, not {type(values).__name__}{kinds}."
    )


def _as_text(values: Mapping[str, Values | None]) -> str:
    there = {name: dict(one) for name, one in values.items() if one is not None}
    return json.dumps(there, separators=(",", ":")) if there else ""


def loaded(text: str) -> dict[str, Values]:
    """The values of all carriers in the text that travelled, by their names."""
    found: dict[str, Values] = json.loads(text) if text else {}
    return found
