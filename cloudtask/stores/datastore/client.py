"""Makes the official Datastore client, repeats its calls, translates their errors."""

from __future__ import annotations

import logging
import os
import random
import time
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeVar
from urllib.parse import urlsplit

from cloudtask.clients import (
    CHANNEL_OPTIONS,
    PASSING,
    Clients,
    code_of,
    ran_out_of_time,
)
from cloudtask.exceptions import CloudTaskError, ConfigurationError, EnqueueUnavailable

logger = logging.getLogger("cloudtask")

T = TypeVar("T")

EMULATOR_HOST = "DATASTORE_EMULATOR_HOST"

RPC_TIMEOUT = 20.0  # seconds a call; a commit may carry 10 MB
FIRST_TRY = 3.0  # seconds for a call on a connection that has worked before
PATIENCE = 30.0  # seconds after which no further try begins
TRIES = 10
FIRST_PAUSE = 0.05  # seconds before the second try; doubles, up to LONGEST_PAUSE
LONGEST_PAUSE = 2.0

_DENIED = frozenset({"PERMISSION_DENIED", "UNAUTHENTICATED"})


@dataclass(frozen=True, slots=True)
class Place:
    """The Datastore to use; for None, the client and its environment choose."""

    project: str | None
    database: str | None
    namespace: str | None


def _connect(place: Place) -> Any:
    from google.auth.exceptions import DefaultCredentialsError
    from google.cloud import datastore

    try:
        client: Any = datastore.Client(  # type: ignore[no-untyped-call]
            place.project, database=place.database
        )
    except DefaultCredentialsError as error:
        # Beside an emulator, credentials are only asked for the name of the project.
        if place.project is None and EMULATOR_HOST in os.environ:
            raise _without_project() from error
        raise ConfigurationError(
            "No Google credentials were found for Datastore. Run on Google Cloud, run "
            "`gcloud auth application-default login`, or set DATASTORE_EMULATOR_HOST "
            "to use an emulator."
        ) from error
    except OSError as error:
        raise _without_project() from error
    if client._use_grpc:
        client._datastore_api_internal = _api(client)
    return client


def _without_project() -> ConfigurationError:
    return ConfigurationError(
        "The store in Datastore has no project: set CLOUDTASK['STORE']['PROJECT']. It "
        "is not set, and neither CLOUDTASK['PROJECT'] nor the environment names one."
    )


def _api(client: Any) -> Any:
    """The API object that `client` would make, but with a connection of its own."""
    import grpc
    from google.cloud._helpers import make_secure_channel
    from google.cloud._http import DEFAULT_USER_AGENT
    from google.cloud.datastore_v1.services.datastore import client as official
    from google.cloud.datastore_v1.services.datastore.transports import grpc as by_grpc

    address = urlsplit(client._base_url)
    if address.scheme == "https":
        channel = make_secure_channel(  # type: ignore[no-untyped-call]
            client._credentials, DEFAULT_USER_AGENT, address.netloc, CHANNEL_OPTIONS
        )
    else:
        channel = grpc.insecure_channel(address.netloc, CHANNEL_OPTIONS[:1])
    transport = by_grpc.DatastoreGrpcTransport(channel=channel)
    return official.DatastoreClient(
        transport=transport, client_info=client._client_info
    )


class _Clients(Clients[Any]):
    """The clients of Datastore, by emulator, project and database."""

    def get(self, place: Place) -> Any:
        host = os.environ.get(EMULATOR_HOST)
        return self.at(host, place.project, place.database)


clients = _Clients(lambda _, project, name: _connect(Place(project, name, None)))


def calling(
    what: str,
    place: Place,
    call: Callable[[Any], T],
    *,
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> T:
    """The result of `call(client)`, which is repeated after temporary errors.

    The call must be safe to repeat. Raises EnqueueUnavailable after TRIES tries or
    PATIENCE seconds, and ConfigurationError if the project, the database or the account
    is wrong.
    """
    from google.api_core.exceptions import GoogleAPICallError
    from google.auth.exceptions import GoogleAuthError

    stop = clock() + PATIENCE
    for attempt in range(1, TRIES + 1):
        client = clients.get(place)
        token = _seconds.set(clients.seconds_for(client, RPC_TIMEOUT, FIRST_TRY))
        try:
            result = call(client)
            clients.answered(client)
            return result
        except (GoogleAPICallError, GoogleAuthError) as error:
            if ran_out_of_time(error):
                clients.replace(client)
            is_over = attempt == TRIES or clock() >= stop
            if is_over or not _may_pass(error):
                raise _translated(error, what, place) from error
            logger.info("%s failed; trying again: %s", what, error)
        finally:
            _seconds.reset(token)
        pause = min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** (attempt - 1))
        sleep(pause * random.uniform(0.5, 1.5))
    raise AssertionError("unreachable")


_seconds: ContextVar[float] = ContextVar("cloudtask_datastore", default=RPC_TIMEOUT)


def once() -> Mapping[str, Any]:
    """Options of a client's method: the timeout of this try, and no retry of its own.

    So only `calling` decides how long a call takes.
    """
    return {"retry": _no_retry(), "timeout": _seconds.get()}


@lru_cache(maxsize=1)
def _no_retry() -> Any:
    from google.api_core.retry import Retry

    return Retry(predicate=lambda error: False)


def _may_pass(error: Exception) -> bool:
    code = code_of(error)
    # A transaction that was idle for 60 seconds has expired; a new one may succeed.
    return code in PASSING or (
        code == "INVALID_ARGUMENT" and "transaction has expired" in str(error)
    )


def named(place: Place) -> str:
    """The place for an error: project, database, namespace, and an emulator."""
    project = place.project or "the project of the environment"
    parts = [project, f"database {place.database or '(default)'}"]
    parts.append(f"namespace {place.namespace or '(empty)'}")
    if host := os.environ.get(EMULATOR_HOST):
        parts.append(f"emulator {host}")
    return ", ".join(parts)


def _translated(error: Exception, what: str, place: Place) -> CloudTaskError:
    code, text = code_of(error), str(getattr(error, "message", error))
    reason = f"{what} in Datastore ({named(place)}) failed: {code}: {text}"
    if _may_pass(error):
        advice = " Trying again may help."
        if code == "UNAVAILABLE" and EMULATOR_HOST in os.environ:
            advice += f" If no emulator runs there, start it, or unset {EMULATOR_HOST}."
        return EnqueueUnavailable(reason + advice)
    if code == "INVALID_ARGUMENT" and "Datastore Mode" in text:
        return ConfigurationError(
            f"{reason} This is Firestore in native mode. CLOUDTASK['STORE'] needs a "
            "database in Datastore mode; an emulator needs the option "
            "--database-mode=datastore-mode."
        )
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
