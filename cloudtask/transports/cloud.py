"""Google Cloud Tasks, or an emulator of it, by the official client."""

from __future__ import annotations

import logging
import os
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from typing import TYPE_CHECKING, Any

from cloudtask import conf, envelope
from cloudtask.exceptions import ConfigurationError, EnqueueError, PayloadError
from cloudtask.message import Message
from cloudtask.targets import target
from cloudtask.transports import requests, translation

if TYPE_CHECKING:
    from google.cloud import tasks_v2

logger = logging.getLogger("cloudtask")

BATCH = 100  # requests in one BatchCreateTasks
CONCURRENCY = 16  # CreateTask calls at once, where there are no batches
RPC_TIMEOUT = 10.0  # seconds a call; the service refuses deadlines over 30
TRIES = 4
FIRST_PAUSE = 0.1  # seconds before the second try; doubles


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

    channel = grpc.insecure_channel(emulator)
    return tasks_v2.CloudTasksClient(
        transport=transports.CloudTasksGrpcTransport(channel=channel)
    )


class CloudTransport:
    """Creates tasks by RPC, each under a name that was chosen before the first try."""

    def __init__(
        self,
        options: Mapping[str, Any],
        *,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        conf.check_backend_options("TRANSPORT", options, set())
        self.sleep = sleep

    def send(self, message: Message) -> None:
        request = self._request(message)
        self._create(message, request)

    def send_many(self, messages: Sequence[Message]) -> list[EnqueueError | None]:
        results: dict[int, EnqueueError | None] = {}
        requests_made: list[tuple[int, Message, Any]] = []
        for index, message in enumerate(messages):
            try:
                requests_made.append((index, message, self._request(message)))
            except EnqueueError as error:
                results[index] = error
        for batch in _batches(requests_made):
            errors = self._create_batch(batch)
            results.update(zip((index for index, _, _ in batch), errors, strict=True))
        return [results[index] for index in range(len(messages))]

    def _request(self, message: Message) -> Any:
        return requests.create_task_request(
            message, target().request_for(message), envelope.seal(message)
        )

    def _create(self, message: Message, request: Any) -> None:
        from google.api_core import exceptions as google
        from google.cloud import tasks_v2

        wrapped = tasks_v2.CreateTaskRequest.wrap(request)
        for attempt in range(1, TRIES + 1):
            try:
                clients.get().create_task(wrapped, timeout=RPC_TIMEOUT)
            except google.AlreadyExists as error:
                if message.named and not self._is_ours(message, request, attempt):
                    raise translation.translated(error, message) from error
            except google.GoogleAPICallError as error:
                if attempt == TRIES or not translation.may_pass(error):
                    raise translation.translated(error, message) from error
                self._pause(attempt, message, error)
                continue
            return

    def _is_ours(self, message: Message, request: Any, attempt: int) -> bool:
        """Whether the task that has the caller's own name is this very message, sent
        before by a try whose answer was lost, or by a process that died."""
        from google.api_core import exceptions as google
        from google.cloud import tasks_v2

        if attempt == 1 and not message.outboxed:
            return False
        full = tasks_v2.GetTaskRequest(
            name=request.task.name, response_view=tasks_v2.Task.View.FULL
        )
        try:
            task = clients.get().get_task(full, timeout=RPC_TIMEOUT)
        except google.NotFound:
            # It ran. A message with a row would have had the row removed.
            return not message.outboxed
        except google.GoogleAPICallError as error:
            raise translation.translated(error, message) from error
        body = task.http_request.body or task.app_engine_http_request.body
        try:
            return envelope.unseal(body, now=message.created).key == message.key
        except PayloadError:
            return False

    def _pause(self, attempt: int, message: Message, error: Exception) -> None:
        pause = FIRST_PAUSE * 2 ** (attempt - 1)
        logger.info(
            "Enqueueing %s (%s) failed, trying again: %s", message.task, message.id, error
        )
        self.sleep(pause * random.uniform(0.5, 1.5))

    def _create_batch(
        self, batch: Sequence[tuple[int, Message, Any]]
    ) -> list[EnqueueError | None]:
        if len(batch) > 1 and clients_batch.usable():
            statuses = self._try_batch(batch)
            if statuses is not None:
                return self._settled(batch, statuses)
        with ThreadPoolExecutor(CONCURRENCY) as pool:
            return list(pool.map(self._outcome, batch))

    def _outcome(self, entry: tuple[int, Message, Any]) -> EnqueueError | None:
        _, message, request = entry
        try:
            self._create(message, request)
        except EnqueueError as error:
            return error
        return None

    def _try_batch(
        self, batch: Sequence[tuple[int, Message, Any]]
    ) -> Mapping[int, Any] | None:
        """The failed requests of one BatchCreateTasks, or None if it did not work.

        Sending the same names again one by one is safe after any failure.
        """
        from google.api_core import exceptions as google
        from google.cloud import tasks_v2

        request = tasks_v2.BatchCreateTasksRequest.wrap(
            requests.batch_request([request for _, _, request in batch])
        )
        try:
            operation = clients.get().batch_create_tasks(request, timeout=RPC_TIMEOUT)
            operation.result(timeout=RPC_TIMEOUT * 2)
        except (google.MethodNotImplemented, google.Unknown) as error:
            clients_batch.refused(error)
            return None
        except Exception as error:  # noqa: BLE001  the single calls will tell what is wrong
            logger.info("BatchCreateTasks failed, creating one by one: %s", error)
            return None
        return dict(operation.metadata.failed_requests)

    def _settled(
        self, batch: Sequence[tuple[int, Message, Any]], statuses: Mapping[int, Any]
    ) -> list[EnqueueError | None]:
        return [
            self._outcome(entry) if index in statuses else None
            for index, entry in enumerate(batch)
        ]


class _BatchSupport:
    """Remembers servers that answered UNIMPLEMENTED to BatchCreateTasks."""

    def __init__(self) -> None:
        self.lacking: set[str | None] = set()

    def usable(self) -> bool:
        return conf.emulator_host() not in self.lacking

    def refused(self, error: Exception) -> None:
        logger.info("BatchCreateTasks is not to be had, creating one by one: %s", error)
        self.lacking.add(conf.emulator_host())


clients_batch = _BatchSupport()


def _batches(
    entries: list[tuple[int, Message, Any]],
) -> Iterator[list[tuple[int, Message, Any]]]:
    """Entries of one queue at a time, at most BATCH and 8 MB together."""
    ordered = sorted(entries, key=lambda entry: entry[2].parent)
    for _, group in groupby(ordered, key=lambda entry: entry[2].parent):
        chunk: list[tuple[int, Message, Any]] = []
        size = 0
        for entry in group:
            size += entry[2].ByteSize()
            if chunk and (len(chunk) == BATCH or size > requests.MAX_BATCH_SIZE):
                yield chunk
                chunk, size = [], entry[2].ByteSize()
            chunk.append(entry)
        if chunk:
            yield chunk
