"""One delivery of a task: what was sent, what came back."""

from __future__ import annotations

from dataclasses import dataclass

HTTP_NO_RESPONSE = 504
"""What an HTTP target is told about an attempt that got no response."""


@dataclass(frozen=True, slots=True)
class Response:
    """What the target answered; `status` is None when nothing came by the deadline.

    `retry_after` is in seconds; `problem` says in words why there was no response.
    """

    status: int | None
    retry_after: float | None = None
    problem: str = ""

    @property
    def ok(self) -> bool:
        return self.status is not None and 200 <= self.status < 300


@dataclass(frozen=True, slots=True)
class Attempt:
    """A finished or running delivery, as `Task.last_attempt` reports it.

    Times are unix seconds.
    """

    schedule_time: float
    dispatch_time: float
    response_time: float | None = None
    status: int | None = None


_RPC_CODES = {
    400: ("INVALID_ARGUMENT", 3),
    401: ("UNAUTHENTICATED", 16),
    403: ("PERMISSION_DENIED", 7),
    404: ("NOT_FOUND", 5),
    409: ("ABORTED", 10),
    416: ("OUT_OF_RANGE", 11),
    429: ("RESOURCE_EXHAUSTED", 8),
    499: ("CANCELLED", 1),
    501: ("UNIMPLEMENTED", 12),
    503: ("UNAVAILABLE", 14),
    504: ("DEADLINE_EXCEEDED", 4),
}


def rpc_status(status: int | None) -> tuple[int, str]:
    """(google.rpc code, message) with which the API reports an HTTP status."""
    if status is not None and 200 <= status < 300:
        return 0, ""
    shown = HTTP_NO_RESPONSE if status is None else status
    name, code = _RPC_CODES.get(shown) or _by_family(shown)
    return code, f"{name}({code}): HTTP status code {shown}"


def _by_family(status: int) -> tuple[str, int]:
    if 400 <= status < 500:
        return "FAILED_PRECONDITION", 9
    if 500 <= status < 600:
        return "INTERNAL", 13
    return "UNKNOWN", 2
