"""The official client, made once per process, and what its server can do."""

from __future__ import annotations

import logging
import os
import threading
from typing import TYPE_CHECKING

from cloudtask import conf
from cloudtask.exceptions import ConfigurationError

if TYPE_CHECKING:
    from google.cloud import tasks_v2

logger = logging.getLogger("cloudtask")


class _Clients:
    """One client per process: gRPC channels don't survive a fork."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.made: dict[tuple[int, str | None], tasks_v2.CloudTasksClient] = {}

    def get(self) -> tasks_v2.CloudTasksClient:
        key = (os.getpid(), conf.emulator_host())
        client = self.made.get(key)
        if client is None:
            with self.lock:
                client = self.made.get(key) or _connect(key[1])
                self.made = {key: client}
        return client

    def forget(self) -> None:
        # Not closed: in a forked child the channel belongs to the parent. The lock may
        # have been held by a thread that does not exist here.
        self.lock = threading.Lock()
        self.made = {}


clients = _Clients()
os.register_at_fork(after_in_child=clients.forget)


def _connect(emulator: str | None) -> tasks_v2.CloudTasksClient:
    from google.auth.exceptions import DefaultCredentialsError
    from google.cloud import tasks_v2

    if emulator is None:
        try:
            return tasks_v2.CloudTasksClient()
        except DefaultCredentialsError as error:
            raise ConfigurationError(
                "No Google credentials were found for Cloud Tasks. Run on Google "
                "Cloud, run `gcloud auth application-default login`, or set "
                "CLOUD_TASKS_EMULATOR_HOST to use an emulator."
            ) from error
    import grpc
    from google.cloud.tasks_v2.services.cloud_tasks import transports

    # An emulator is near: a proxy for the way out does not know it.
    channel = grpc.insecure_channel(emulator, [("grpc.enable_http_proxy", 0)])
    return tasks_v2.CloudTasksClient(
        transport=transports.CloudTasksGrpcTransport(channel=channel)
    )


class _BatchSupport:
    """Remembers servers that answered UNIMPLEMENTED to BatchCreateTasks."""

    def __init__(self) -> None:
        self.lacking: set[str | None] = set()

    def usable(self) -> bool:
        return conf.emulator_host() not in self.lacking

    def refused(self, error: Exception) -> None:
        logger.info("BatchCreateTasks is not to be had, creating one by one: %s", error)
        self.lacking.add(conf.emulator_host())


batches = _BatchSupport()
