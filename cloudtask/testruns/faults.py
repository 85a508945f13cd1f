"""How badly a run is to deliver: as badly as Cloud Tasks is allowed to."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, fields
from types import TracebackType
from typing import Self

from cloudtask import failpoints
from cloudtask.failpoints import Crashed
from cloudtask.transports import memory


class CrashPoint:
    """The process dies the first time, or `times`, that `point` is reached.

    As a block, the block is the process: it ends where it dies. One that survives has
    not reached the point, and fails the test.
    """

    def __init__(self, point: str, times: int) -> None:
        if point not in failpoints.POINTS:
            known = ", ".join(sorted(failpoints.POINTS))
            raise ValueError(f"There is no failpoint {point!r}; known are {known}.")
        self.point = point
        self.times = times
        self.struck = 0
        self._armed = ExitStack()

    def arm(self) -> ExitStack:
        """Crash there until the stack is closed; counted anew."""
        self.struck = 0
        stack = ExitStack()
        stack.enter_context(failpoints.at(self.point, self._strike))
        return stack

    def _strike(self) -> None:
        if self.struck < self.times:
            self.struck += 1
            memory.queue().is_disturbed = True
            raise Crashed(f"crashed at {self.point}")

    def __enter__(self) -> Self:
        self._armed = self.arm()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> bool:
        self._armed.close()
        if error is None and not self.struck:
            raise AssertionError(f"Nothing reached the failpoint {self.point!r}.")
        return isinstance(error, Crashed)

    def __repr__(self) -> str:
        times = f", times={self.times}" if self.times != 1 else ""
        return f"crash_at({self.point!r}{times})"


def crash_at(point: str, *, times: int = 1) -> CrashPoint:
    """A crash at one of `cloudtask.failpoints.POINTS`.

    For `Faults(crash=...)`, for `run_queued(faults=...)`, or as a `with` block.
    Raises ValueError for an unknown point.
    """
    return CrashPoint(point, times)


@dataclass(frozen=True, kw_only=True, repr=False)
class Faults:
    """What goes wrong in a run, each with its chance: 0 to 1, or True for always.

    `duplicate`: a call that succeeded is delivered again. `concurrent`: it is delivered
    a second time while it runs. `crash`: its process is killed at some failpoint, or at
    the one of `crash_at()`. `reorder`: calls that are due overtake one another.
    `lose_ack`: the answer is lost, so the service tries again. `enqueue_errors`: the
    queue can't be reached, whether it took the call or not.

    Each fault strikes a call once at most, so every run ends. The same `seed` makes the
    same choices.
    """

    duplicate: float = 0.0
    concurrent: float = 0.0
    crash: float | CrashPoint = 0.0
    reorder: float = 0.0
    lose_ack: float = 0.0
    enqueue_errors: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name == "seed" or isinstance(value, CrashPoint):
                continue
            if not isinstance(value, int | float) or not 0 <= value <= 1:
                raise ValueError(
                    f"Faults({field.name}=) is a chance from 0 to 1, not {value!r}."
                )

    def __repr__(self) -> str:
        given = [
            f"{field.name}={getattr(self, field.name)!r}"
            for field in fields(self)
            if field.name == "seed" or getattr(self, field.name)
        ]
        return f"Faults({', '.join(given)})"
