"""Makes the official client of Cloud Tasks, and records whether batches work."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from cloudtask import conf
from cloudtask.clients import CHANNEL_OPTIONS, Clients
from cloudtask.exceptions import ConfigurationError

if TYPE_CHECKING:
    from google.cloud import tasks_v2

logger = logging.getLogger("cloudtask")


class _Clients(Clients["tasks_v2.CloudTasksClient"]):
    """The clients of Cloud Tasks; the place is the address of an emulator, or None."""

    def get(self) -> tasks_v2.CloudTasksClient:
        return self.at(conf.emulator_host())


def _connect(emulator: str | None) -> tasks_v2.CloudTasksClient:
    from google.auth.exceptions import DefaultCredentialsError
    from google.cloud import tasks_v2
    from google.cloud.tasks_v2.services.cloud_tasks import transports

    transport = transports.CloudTasksGrpcTransport
    if emulator is None:
        try:
            return tasks_v2.CloudTasksClient(
                transport=partial(transport, channel=_channel)
            )
        except DefaultCredentialsError as error:
            raise ConfigurationError(
                "No Google credentials were found for Cloud Tasks. Run on Google "
                "Cloud, run `gcloud auth application-default login`, or set "
                "CLOUD_TASKS_EMULATOR_HOST to use an emulator."
            ) from error
    import grpc

    # No proxy: one for requests to the internet does not know the emulator.
    options = [("grpc.enable_http_proxy", 0), *CHANNEL_OPTIONS[:1]]
    channel = grpc.insecure_channel(emulator, options)
    return tasks_v2.CloudTasksClient(transport=transport(channel=channel))


def _channel(*args: Any, options: Sequence[tuple[str, Any]] = (), **kwargs: Any) -> Any:
    """A channel like that of the official client, with a connection of its own."""
    from google.cloud.tasks_v2.services.cloud_tasks import transports

    ours = {name for name, _ in CHANNEL_OPTIONS}
    chosen = [pair for pair in options if pair[0] not in ours]
    return transports.CloudTasksGrpcTransport.create_channel(
        *args, options=[*chosen, *CHANNEL_OPTIONS], **kwargs
    )


clients = _Clients(_connect)


class _BatchSupport:
    """Remembers servers that answered UNIMPLEMENTED to BatchCreateTasks."""

    def __init__(self) -> None:
        self.lacking: set[str | None] = set()

    def usable(self) -> bool:
        return conf.emulator_host() not in self.lacking

    def refused(self, error: Exception) -> None:
        logger.info(
            "The server has no BatchCreateTasks; creating tasks one by one: %s", error
        )
        self.lacking.add(conf.emulator_host())


batches = _BatchSupport()
