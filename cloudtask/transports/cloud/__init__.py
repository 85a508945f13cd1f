"""Sends messages to Google Cloud Tasks, or to an emulator, by the official client."""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from cloudtask import conf, envelope, quotas
from cloudtask.clients import may_pass, ran_out_of_time
from cloudtask.exceptions import (
    ConfigurationError,
    DuplicateTask,
    EnqueueError,
    EnqueueUnavailable,
    PayloadError,
)
from cloudtask.message import Message
from cloudtask.targets import target
from cloudtask.transports.cloud import requests, translation
from cloudtask.transports.cloud.client import batches, clients

logger = logging.getLogger("cloudtask")

CONCURRENCY = 16  # CreateTask calls at once, if batches do not work
RPC_TIMEOUT = 10.0  # seconds a call; the service refuses deadlines over 30
FIRST_BATCH = 3.0  # seconds for a batch on a connection that has worked before
PATIENCE = 20.0  # seconds for all tries of a message, or of a batch
TRIES = 4
FIRST_PAUSE = 0.1  # seconds before the second try; doubles


@dataclass(frozen=True, slots=True)
class _Entry:
    """One message of many, its place among them, and its request."""

    index: int
    message: Message
    request: Any


class CloudTransport:
    """Creates tasks by RPC, each under a name that was chosen before the first try.

    A send ends after PATIENCE seconds, whatever the network does.
    """

    def __init__(
        self,
        options: Mapping[str, Any],
        *,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        conf.check_backend_options("TRANSPORT", options, set())
        self.sleep = sleep
        self.clock = clock

    def check(self) -> None:
        """Raise ConfigurationError when project, location or target is missing."""
        requests.queue_path("default")
        target()

    def send(self, message: Message) -> None:
        request = self._request(message)
        self._create(message, request, stop=self.clock() + PATIENCE)

    def send_many(self, messages: Sequence[Message]) -> list[EnqueueError | None]:
        results: list[EnqueueError | None] = [None] * len(messages)
        is_down = False
        for batch in _batches(self._entries(messages, results)):
            errors: Sequence[EnqueueError | None]
            if is_down:
                errors = [_not_tried(entry.message) for entry in batch]
            else:
                errors = self._create_batch(batch, stop=self.clock() + PATIENCE)
                is_down = all(isinstance(e, EnqueueUnavailable) for e in errors)
            for entry, error in zip(batch, errors, strict=True):
                results[entry.index] = error
        return results

    def delete(self, queue: str, name: str) -> bool:
        """Delete a task; returns False if the service has none of this name."""
        from google.api_core import exceptions as google

        full = requests.task_path(queue, name)
        try:
            clients.get().delete_task(name=full, timeout=RPC_TIMEOUT, retry=None)
        except google.NotFound:
            return False
        return True

    def _entries(
        self, messages: Sequence[Message], results: list[EnqueueError | None]
    ) -> Iterator[_Entry]:
        """Requests, by queue; errors of messages that can't be sent go to `results`."""
        names: set[tuple[str, str]] = set()
        parts = [requests.part_of(message) for message in messages]
        for index in sorted(range(len(messages)), key=parts.__getitem__):
            message = messages[index]
            name = message.queue, message.name
            if message.named and name in names:
                results[index] = _named_twice(message)
                continue
            names.add(name)
            try:
                yield _Entry(index, message, self._request(message))
            except EnqueueError as error:
                results[index] = error

    def _request(self, message: Message) -> Any:
        return requests.create_task_request(
            message, target().request_for(message), envelope.seal(message)
        )

    def _create(
        self, message: Message, request: Any, *, stop: float, again: bool = False
    ) -> None:
        """Create the task; `again` means that an earlier try may have created it."""
        from google.api_core import exceptions as google
        from google.auth.exceptions import GoogleAuthError

        from cloudtask.transports.cloud.creating import create

        for attempt in range(1, TRIES + 1):
            client = clients.get()
            seconds = clients.seconds_for(client, self._rpc_timeout(stop))
            try:
                create(client, request, timeout=seconds)
            except google.AlreadyExists as error:
                again = again or attempt > 1
                if message.named and not self._is_ours(message, request, again=again):
                    raise translation.translated(
                        error, message, parent=request.parent
                    ) from error
            except (google.GoogleAPICallError, GoogleAuthError) as error:
                if ran_out_of_time(error):
                    clients.replace(client)
                is_over = attempt == TRIES or self.clock() >= stop
                if is_over or not may_pass(error):
                    raise translation.translated(
                        error, message, parent=request.parent
                    ) from error
                self._pause(attempt, message, error)
                continue
            clients.answered(client)
            return

    def _rpc_timeout(self, stop: float) -> float:
        return min(RPC_TIMEOUT, max(stop - self.clock(), 0.1))

    def _is_ours(self, message: Message, request: Any, *, again: bool) -> bool:
        """Whether an earlier try sent this very message under its chosen name.

        The answer of that try was lost, or its process was killed.
        """
        from google.api_core import exceptions as google
        from google.cloud import tasks_v2

        if not again and not message.outboxed:
            return False
        full = tasks_v2.GetTaskRequest(
            name=request.task.name, response_view=tasks_v2.Task.View.FULL
        )
        try:
            task = clients.get().get_task(full, timeout=RPC_TIMEOUT, retry=None)
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
            "Enqueueing %s (%s) failed; trying again: %s",
            message.task,
            message.id,
            error,
        )
        self.sleep(pause * random.uniform(0.5, 1.5))

    def _create_batch(
        self, batch: Sequence[_Entry], *, stop: float
    ) -> list[EnqueueError | None]:
        again = False
        can_batch = requests.client_knows_batches() and batches.usable()
        if len(batch) > 1 and can_batch:
            statuses = self._try_batch(batch, stop)
            if statuses is not None:
                batch_errors: list[EnqueueError | None] = [
                    self._outcome(entry, stop, again=False) if i in statuses else None
                    for i, entry in enumerate(batch)
                ]
                return batch_errors
            again = batches.usable()
        with ThreadPoolExecutor(min(CONCURRENCY, len(batch))) as pool:
            return list(pool.map(lambda e: self._outcome(e, stop, again=again), batch))

    def _outcome(
        self, entry: _Entry, stop: float, *, again: bool
    ) -> EnqueueError | None:
        if self.clock() >= stop:
            return _not_tried(entry.message)
        try:
            self._create(entry.message, entry.request, stop=stop, again=again)
        except EnqueueError as error:
            return error
        return None

    def _try_batch(
        self, batch: Sequence[_Entry], stop: float
    ) -> Mapping[int, Any] | None:
        """The failed requests of one BatchCreateTasks, or None if it did not work.

        Sending the same messages one by one is safe after any failure.
        """
        from google.api_core import exceptions as google
        from google.cloud import tasks_v2

        request = tasks_v2.BatchCreateTasksRequest.wrap(
            requests.batch_request([entry.request for entry in batch])
        )
        client = clients.get()
        seconds = clients.seconds_for(client, self._rpc_timeout(stop), FIRST_BATCH)
        try:
            operation: Any = client.batch_create_tasks(request, timeout=seconds)
            operation.result(timeout=self._rpc_timeout(stop))
        except google.MethodNotImplemented as error:
            batches.refused(error)
            return None
        except ConfigurationError:
            raise
        except Exception as error:  # noqa: BLE001  the single calls raise the cause
            if ran_out_of_time(error):
                clients.replace(client)
            if isinstance(error, google.Unknown) and conf.emulator_host():
                batches.refused(error)  # some emulators report "not implemented" so
            else:
                logger.info(
                    "BatchCreateTasks failed; creating tasks one by one: %s", error
                )
            return None
        clients.answered(client)
        return dict(operation.metadata.failed_requests)


def _not_tried(message: Message) -> EnqueueUnavailable:
    return translation.unavailable(message, "Not tried: earlier calls failed this way.")


def _named_twice(message: Message) -> DuplicateTask:
    return DuplicateTask(
        f"Task {message.task} ({message.id}) was refused: another call of the same "
        f"defer_many is named {message.name!r} in queue {message.queue!r}."
    )


def _batches(entries: Iterable[_Entry]) -> Iterator[list[_Entry]]:
    """Groups of entries for one queue, none larger than a batch allows."""
    for _, group in groupby(entries, key=lambda entry: entry.request.parent):
        chunk: list[_Entry] = []
        size = 0
        for entry in group:
            length = entry.request.ByteSize()
            if chunk and (
                len(chunk) == quotas.BATCH or size + length > quotas.BATCH_BYTES
            ):
                yield chunk
                chunk, size = [], 0
            chunk.append(entry)
            size += length
        if chunk:
            yield chunk
