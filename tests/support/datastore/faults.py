"""Faults: what a test asks the server to do wrong, and how often it was called."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from threading import Lock

from grpc import StatusCode

METHODS = (
    "Lookup",
    "RunQuery",
    "RunAggregationQuery",
    "BeginTransaction",
    "Commit",
    "Rollback",
    "AllocateIds",
    "ReserveIds",
)


@dataclass
class Fault:
    code: StatusCode
    message: str
    apply: bool
    skip: int
    times: int


class Faults:
    def __init__(self) -> None:
        self._lock = Lock()
        self._calls: Counter[str] = Counter()
        self._faults: dict[str, list[Fault]] = {}
        self._callbacks: dict[str, list[Callable[[], object]]] = {}

    @property
    def calls(self) -> Counter[str]:
        with self._lock:
            return self._calls.copy()

    def add(self, method: str, fault: Fault) -> None:
        with self._lock:
            self._faults.setdefault(_known(method), []).append(fault)

    def add_callback(self, method: str, callback: Callable[[], object]) -> None:
        with self._lock:
            self._callbacks.setdefault(_known(method), []).append(callback)

    def clear(self) -> None:
        with self._lock:
            self._calls.clear()
            self._faults.clear()
            self._callbacks.clear()

    def meet(self, method: str) -> Fault | None:
        """Counts a call; the fault that it meets, if one is due."""
        with self._lock:
            self._calls[method] += 1
            fault = self._take(self._faults.get(method, []))
            callbacks = self._callbacks.pop(method, [])
        for callback in callbacks:
            callback()
        return fault

    def _take(self, waiting: list[Fault]) -> Fault | None:
        if not waiting:
            return None
        fault = waiting[0]
        if fault.skip:
            fault.skip -= 1
            return None
        fault.times -= 1
        if not fault.times:
            waiting.pop(0)
        return fault


def _known(method: str) -> str:
    if method not in METHODS:
        raise ValueError(f"{method!r} is no method; there are {', '.join(METHODS)}.")
    return method
