"""Keeps Google's clients: one for each process and place, as long as it is answered.

A connection can fall silent without being closed: an instance of Cloud Run was frozen
between two requests, or a router forgot the connection. Calls then run out of time, one
after the other, where a new connection would work at once. So the first try of a call
on a connection that has worked is short, and a try that ran out of time gets a new one.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from typing import Any, Generic, TypeVar

T = TypeVar("T")

FIRST_TRY = 2.0  # seconds for a call on a connection that has worked before

# Each channel has its own connection: otherwise a new one would share the silent one.
# The ping notices during a call that nobody answers.
CHANNEL_OPTIONS: tuple[tuple[str, int], ...] = (
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
)

# Names of gRPC codes whose outcome is not known, or whose refusal may pass. INTERNAL
# and UNKNOWN come from connections that break in the middle of an answer. The last two
# are errors of google-auth, when it can't get a token.
PASSING = frozenset(
    {
        "UNAVAILABLE",
        "DEADLINE_EXCEEDED",
        "ABORTED",
        "INTERNAL",
        "UNKNOWN",
        "CANCELLED",
        "RESOURCE_EXHAUSTED",
        "TransportError",
        "RefreshError",
    }
)


def code_of(error: BaseException) -> str:
    """The gRPC code's name, or the name of the class for an error without one."""
    status = getattr(error, "grpc_status_code", None)
    return status.name if status is not None else type(error).__name__


def may_pass(error: BaseException) -> bool:
    """Whether the same call may succeed a moment later."""
    return code_of(error) in PASSING


def ran_out_of_time(error: BaseException) -> bool:
    """Whether a call ended since no answer came in time."""
    return isinstance(error, TimeoutError) or code_of(error) == "DEADLINE_EXCEEDED"


class Clients(Generic[T]):
    """Clients by place; `connect` makes the client of one.

    gRPC channels don't survive a fork, so each process has its own clients.
    """

    def __init__(self, connect: Callable[..., T]) -> None:
        self.connect = connect
        self.forget()
        os.register_at_fork(after_in_child=self.forget)

    def forget(self) -> None:
        # Not closed: in a forked child the channels belong to the parent. The lock may
        # have been held by a thread that does not exist here.
        self.lock = threading.Lock()
        self.made: dict[tuple[Any, ...], T] = {}
        self.proven: set[int] = set()

    def at(self, *place: Any) -> T:
        """The client of `place`, made by the first thread that asks for it."""
        client = self.made.get(place)
        if client is None:
            with self.lock:
                client = self.made.get(place) or self.connect(*place)
                self.made[place] = client
        return client

    def seconds_for(self, client: T, most: float, first: float = FIRST_TRY) -> float:
        """How long to wait for a call: `first` on a connection that has worked."""
        return min(first, most) if id(client) in self.proven else most

    def answered(self, client: T) -> None:
        """Note that the connection of `client` works."""
        self.proven.add(id(client))

    def replace(self, client: T) -> None:
        """Have the next `at` make another client: this one got no answer.

        Calls of other threads under way go on. A client that was replaced is left
        alone.
        """
        with self.lock:
            self.proven.discard(id(client))
            kept = {k: v for k, v in self.made.items() if v is not client}
            self.made = kept
