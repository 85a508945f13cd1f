"""The official Datastore client: made once per process, its calls repeated and their
errors translated here and nowhere else."""

from __future__ import annotations

import logging
import os
import random
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeVar

from cloudtask.exceptions import CloudTaskError, ConfigurationError, EnqueueUnavailable

logger = logging.getLogger("cloudtask")

T = TypeVar("T")

RPC_TIMEOUT = 20.0  # seconds a call; a commit may carry 10 MB
PATIENCE = 30.0  # seconds after which no further try begins
TRIES = 10
FIRST_PAUSE = 0.05  # seconds before the second try; doubles, up to LONGEST_PAUSE
LONGEST_PAUSE = 2.0

# An outcome that is not known, or a refusal that passes; the last two are google-auth's
# when it can't have a token.
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
_DENIED = frozenset({"PERMISSION_DENIED", "UNAUTHENTICATED"})


@dataclass(frozen=True, slots=True)
class Place:
    """Which Datastore: None leaves it to the client and its environment."""

    project: str | None
    database: str | None
    namespace: str | None


class _Clients:
    """One client per process and database: gRPC channels don't survive a fork."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.made: dict[tuple[int, str | None, str | None, str | None], Any] = {}

    def get(self, place: Place) -> Any:
        host = os.environ.get("DATASTORE_EMULATOR_HOST")
        key = (os.getpid(), host, place.project, place.database)
        client = self.made.get(key)
        if client is None:
            with self.lock:
                client = self.made.get(key) or _connect(place)
                self.made[key] = client
        return client

    def forget(self) -> None:
        # Not closed: in a forked child the channel belongs to the parent. The lock may
        # have been held by a thread that does not exist here.
        self.lock = threading.Lock()
        self.made = {}


clients = _Clients()
os.register_at_fork(after_in_child=clients.forget)


def _connect(place: Place) -> Any:
    from google.auth.exceptions import DefaultCredentialsError
    from google.cloud import datastore

    try:
        client: Any = datastore.Client(  # type: ignore[no-untyped-call]
            place.project, database=place.database
        )
    except DefaultCredentialsError as error:
        raise ConfigurationError(
            "No Google credentials were found for Datastore. Run on Google Cloud, run "
            "`gcloud auth application-default login`, or set DATASTORE_EMULATOR_HOST "
            "to use an emulator."
        ) from error
    except OSError as error:
        raise ConfigurationError(
            "CLOUDTASK['STORE']['PROJECT'] is not set, and neither CLOUDTASK"
            "['PROJECT'] nor the environment names a Google Cloud project."
        ) from error
    _ = client._datastore_api  # Made by the first thread that asks, else by several.
    return client


def calling(
    what: str,
    place: Place,
    call: Callable[[Any], T],
    *,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> T:
    """`call(client)`, again after errors that pass: it must be safe to repeat.

    Raises EnqueueUnavailable when they don't pass in TRIES tries or PATIENCE seconds,
    ConfigurationError when the project, the database or the account is wrong.
    """
    from google.api_core.exceptions import GoogleAPICallError
    from google.auth.exceptions import GoogleAuthError

    client = clients.get(place)
    stop = clock() + PATIENCE
    for attempt in range(1, TRIES + 1):
        try:
            return call(client)
        except (GoogleAPICallError, GoogleAuthError) as error:
            is_over = attempt == TRIES or clock() >= stop
            if is_over or not _may_pass(error):
                raise _translated(error, what) from error
            logger.info("%s failed, trying again: %s", what, error)
        pause = min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** (attempt - 1))
        sleep(pause * random.uniform(0.5, 1.5))
    raise AssertionError("unreachable")


@lru_cache(maxsize=1)
def once() -> Mapping[str, Any]:
    """Options of a client's method: it does not try again by itself, so that `calling`
    alone decides how long that lasts."""
    from google.api_core.retry import Retry

    return {"retry": Retry(predicate=lambda error: False), "timeout": RPC_TIMEOUT}


def code_of(error: Exception) -> str:
    """The gRPC code's name, or the name of the class for an error without one."""
    status = getattr(error, "grpc_status_code", None)
    return status.name if status is not None else type(error).__name__


def _may_pass(error: Exception) -> bool:
    code = code_of(error)
    # A transaction that was idle for 60 seconds is gone: another one may do.
    return code in PASSING or (
        code == "INVALID_ARGUMENT" and "transaction has expired" in str(error)
    )


def _translated(error: Exception, what: str) -> CloudTaskError:
    code, text = code_of(error), str(getattr(error, "message", error))
    reason = f"{what} in Datastore failed: {code}: {text}"
    if _may_pass(error):
        return EnqueueUnavailable(f"{reason} Trying again may help.")
    if code in _DENIED:
        return ConfigurationError(
            f"{reason} The account of this process needs the role roles/datastore.user."
        )
    if code in {"NOT_FOUND", "FAILED_PRECONDITION"}:
        return ConfigurationError(
            f"{reason} CLOUDTASK['STORE'] must name a project and a database that are "
            "in Datastore mode."
        )
    return CloudTaskError(reason)
