"""Reads the tasks of queues: from the service, or from the memory of a test."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import unquote

from cloudtask import conf, registry
from cloudtask.conf.queues import Queue, declared_name
from cloudtask.message import Message
from cloudtask.queues.actual import (
    SECONDS,
    ActualQueue,
    QueuesUnknown,
    cached,
    declared,
    list_queues,
    parent,
    rpc,
    told,
)
from cloudtask.transports import memory
from cloudtask.transports.cloud.client import clients
from cloudtask.transports.cloud.requests import queue_path

PAGE = 1000  # tasks that the service lists at most in one answer
_RUN = "/run/"  # stands before the path of a task in the URL of its handler
_FULL = 2  # google.cloud.tasks.v2.Task.View


@dataclass(frozen=True, slots=True, kw_only=True)
class WaitingTask:
    """A task of a queue. `task` is None if it has a URL of its own.

    `queue` is the declared queue, and `part` the one of the service that has it.
    `tries` counts deliveries, and `answers` those that were answered; `answer` is the
    last one.
    """

    name: str
    queue: str
    part: str
    task: str | None
    due_at: datetime | None
    created_at: datetime | None
    tries: int = 0
    answers: int = 0
    answer: str = ""
    body: bytes = field(default=b"", repr=False, compare=False)

    @property
    def is_running(self) -> bool:
        """Whether a delivery is under way, as far as the service knows."""
        return self.tries > self.answers


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueStats:
    """The work of a queue, as the service estimates it.

    `oldest_at` is the earliest time at which a waiting task is due. `rate` is that of
    deliveries in a second, as the service allows it now.
    """

    name: str
    tasks: int
    oldest_at: datetime | None
    executed_last_minute: int
    running: int
    rate: float


def is_in_memory() -> bool:
    """Whether tasks stay in this process, as in tests."""
    backend: str = conf.transport_options(conf.settings())["BACKEND"]
    return backend == conf.MEMORY_TRANSPORT


def used() -> list[str]:
    """The queues that are declared, or that the project's tasks name."""
    named = {
        definition.options.queue
        for path, definition in registry.tasks().items()
        if not path.startswith("cloudtask.")
    }
    return sorted(named | {*conf.settings().queues})


def all_queues() -> list[ActualQueue]:
    """The queues of the location; in tests the declared ones. Raises QueuesUnknown."""
    if not is_in_memory():
        return [*list_queues().values()]
    there = {entry.message.queue for entry in memory.queue()}
    return [_of_test(declared(name)) for name in sorted({*used(), *there})]


def _of_test(queue: Queue) -> ActualQueue:
    backoff = queue.backoff
    return ActualQueue(
        name=queue.name,
        state="RUNNING",
        rate=queue.rate or 0.0,
        concurrency=queue.concurrency or 0,
        max_attempts=-1,
        max_retry_duration=timedelta(0),
        min_backoff=backoff.min if backoff else timedelta(0),
        max_backoff=backoff.max if backoff else timedelta(0),
        doublings=backoff.doublings if backoff else 0,
    )


def tasks_of(queue: str, *, limit: int | None) -> Iterator[WaitingTask]:
    """Up to `limit` tasks of a queue, or of all its parts, page by page.

    The service has no order. Raises QueuesUnknown.
    """
    waiting: Iterator[WaitingTask]
    if is_in_memory():
        found = (one for one in memory.queue() if one.message.queue == queue)
        waiting = map(_of_memory, found)
    else:
        waiting = _of_parts(queue, min(limit or PAGE, PAGE))
    for number, one in enumerate(waiting):
        if limit is not None and number >= limit:
            return
        yield one


def _of_parts(queue: str, size: int) -> Iterator[WaitingTask]:
    """Tasks from before its spread wait in the queue's own name."""
    parts = declared(queue).parts
    for part in dict.fromkeys((*parts, queue)):
        try:
            yield from _of_part(part, size)
        except QueuesUnknown as error:
            if part in parts or not error.is_missing:
                raise


def _of_part(part: str, size: int) -> Iterator[WaitingTask]:
    request = {"parent": queue_path(part), "page_size": size}
    pages = iter(rpc("list_tasks", lambda: {"request": request}))
    while True:
        with told("list_tasks"):
            found = next(pages, None)
        if found is None:
            return
        yield _of_service(found)


def find_task(queue: str, name: str, *, full: bool = False) -> WaitingTask | None:
    """A task of a queue, or of one of its parts; None if there is none.

    With `full` it has its body, for which the service asks another right. Raises
    QueuesUnknown.
    """
    if is_in_memory():
        found = (one for one in memory.queue() if one.message.queue == queue)
        named = (one for one in found if one.message.name == name)
        return next(map(_of_memory, named), None)
    chosen = declared(queue)
    for part in dict.fromkeys((chosen.part_for(name), *chosen.parts, queue)):
        request: dict[str, Any] = {"name": f"{queue_path(part)}/tasks/{name}"}
        if full:
            request["response_view"] = _FULL
        what = "get_whole_task" if full else "get_task"
        try:
            return _of_service(rpc("get_task", lambda: {"request": request}, what=what))  # noqa: B023
        except QueuesUnknown as error:
            if not error.is_missing:
                raise
    return None


def _of_memory(entry: memory.Waiting) -> WaitingTask:
    running = memory.queue().running is entry
    return replace(
        of_message(entry.message),
        due_at=datetime.fromtimestamp(entry.due, UTC),
        tries=entry.delivery.retries + running,
        answers=entry.delivery.retries,
        body=entry.body,
    )


def of_message(message: Message) -> WaitingTask:
    """The task that a message makes, which no queue has yet."""
    return WaitingTask(
        name=message.name,
        queue=message.queue,
        part=message.queue,
        task=message.task,
        due_at=datetime.fromtimestamp(message.eta or message.created, UTC),
        created_at=datetime.fromtimestamp(message.created, UTC),
    )


def _of_service(found: Any) -> WaitingTask:
    part, _, name = found.name.rpartition("/queues/")[2].partition("/tasks/")
    http, engine = found.http_request, found.app_engine_http_request
    return WaitingTask(
        name=name,
        queue=declared_name(conf.settings().queues, part),
        part=part,
        task=_task_in(http.url or engine.relative_uri),
        due_at=found.schedule_time or None,
        created_at=found.create_time or None,
        tries=found.dispatch_count,
        answers=found.response_count,
        answer=found.last_attempt.response_status.message,
        body=http.body or engine.body,
    )


def _task_in(url: str) -> str | None:
    """The path of the task that the handler of a URL runs."""
    _, found, task = url.partition("?")[0].rpartition(_RUN)
    return unquote(task) if found else None


def stats_of(queue: str) -> QueueStats:
    """The work of a queue, or of all its parts together; raises QueuesUnknown."""
    if is_in_memory():
        found = [one for one in memory.queue() if one.message.queue == queue]
        oldest = min((one.due for one in found), default=None)
        at = None if oldest is None else datetime.fromtimestamp(oldest, UTC)
        return QueueStats(
            name=queue,
            tasks=len(found),
            oldest_at=at,
            executed_last_minute=0,
            running=0,
            rate=0.0,
        )
    parts = [stats_of_part(part) for part in declared(queue).parts]
    times = [one.oldest_at for one in parts if one.oldest_at is not None]
    return QueueStats(
        name=queue,
        tasks=sum(one.tasks for one in parts),
        oldest_at=min(times, default=None),
        executed_last_minute=sum(one.executed_last_minute for one in parts),
        running=sum(one.running for one in parts),
        rate=sum(one.rate for one in parts),
    )


_V2BETA3 = "/google.cloud.tasks.v2beta3.CloudTasks"  # v2 has no statistics
_MOST_QUEUES = 1000  # of which one answer has the statistics


def stats_of_part(part: str) -> QueueStats:
    """The work of one queue of the service; raises QueuesUnknown."""
    from google.cloud import tasks_v2beta3

    with told("get_queue"):
        request = tasks_v2beta3.GetQueueRequest.pb()(name=queue_path(part))
        request.read_mask.paths.append("stats")
        read = tasks_v2beta3.Queue.pb().FromString
        stats = _asked("GetQueue", request, read, name=request.name).stats
    return _stats_in(part, stats)


def stats_cached() -> dict[str, QueueStats]:
    """The work of the queues of the service by name, from one request that is some
    seconds old at most; raises QueuesUnknown. A queue may be missing in it."""
    return cached("stats", _stats_of_all)


def _stats_of_all() -> dict[str, QueueStats]:
    from google.cloud import tasks_v2beta3

    with told("list_queues"):
        request = tasks_v2beta3.ListQueuesRequest.pb()(
            parent=parent(), page_size=_MOST_QUEUES
        )
        request.read_mask.paths.extend(("name", "stats"))
        read = tasks_v2beta3.ListQueuesResponse.pb().FromString
        answer = _asked("ListQueues", request, read, parent=request.parent)
    found = ((one.name.rpartition("/")[2], one) for one in answer.queues)
    # An emulator of others may not know the mask.
    return {
        name: _stats_in(name, one.stats) for name, one in found if one.HasField("stats")
    }


def _stats_in(part: str, stats: Any) -> QueueStats:
    oldest = stats.oldest_estimated_arrival_time
    return QueueStats(
        name=part,
        tasks=stats.tasks_count,
        oldest_at=oldest.ToDatetime(UTC) if oldest.seconds else None,
        executed_last_minute=stats.executed_last_minute_count,
        running=stats.concurrent_dispatches_count,
        rate=stats.effective_execution_rate,
    )


def _asked(method: str, request: Any, read: Any, **routed: str) -> Any:
    """The answer to a raw request, on the channel of Google's client for v2."""
    import grpc
    from google.api_core import exceptions
    from google.api_core.gapic_v1 import routing_header

    transport: Any = clients.get().transport
    call = transport.grpc_channel.unary_unary(
        f"{_V2BETA3}/{method}", type(request).SerializeToString, read
    )
    route = routing_header.to_grpc_metadata(tuple(routed.items()))  # type: ignore[no-untyped-call]
    try:
        return call(request, timeout=SECONDS, metadata=(route,))
    except grpc.RpcError as error:
        raise exceptions.from_grpc_error(error) from error  # type: ignore[no-untyped-call]
