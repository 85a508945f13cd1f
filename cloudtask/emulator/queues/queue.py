"""Decides which task of a queue is dispatched when, and what a response changes.

Nothing here waits, sends, or reads a clock: `now` and the random generator are
arguments, so a test can simulate hours in milliseconds.

The states of a task::

    add -> waiting -> take or force -> running -> finish -> gone, or waiting again
"""

from __future__ import annotations

import enum
import heapq
import random
from itertools import islice

from cloudtask.emulator.protocol import has
from cloudtask.emulator.queues import policy as policies
from cloudtask.emulator.queues.policy import (
    LONGEST_HOLD,
    Bucket,
    LastMinute,
    QueueConfig,
    RetryPolicy,
    Throttle,
)
from cloudtask.emulator.queues.task import Attempt, Dispatch, Response, Task

_REORDER_WINDOW = 32


class Verdict(enum.Enum):
    """The effect of a response on its task."""

    DONE = "done"
    RETRY = "retry"
    EXHAUSTED = "given up"
    GONE = "already gone"


class Queue:
    """The tasks of one queue, ordered by the time at which they are due."""

    def __init__(
        self, name: str, config: QueueConfig, *, now: float, rate_limits: bool = True
    ) -> None:
        self.name = name
        self.id = name.rpartition("/")[2]
        self.config = config
        self.rate_limits = rate_limits
        self.paused = False
        self.purge_time: float | None = None
        self.tasks: dict[str, Task] = {}
        self.tombstones: dict[str, float] = {}
        self.running = 0
        self._bucket = Bucket(burst=config.burst, at=now)
        self.responses = LastMinute()
        self._throttle = Throttle()
        self._heap: list[tuple[float, int, Task]] = []
        self._tickets = 0

    # For the calls of clients.

    def add(self, task: Task) -> None:
        self.tasks[task.id] = task
        self._enlist(task, task.eta)

    def remove(self, task_id: str, *, now: float) -> Task | None:
        """Delete a task; its name stays taken for the tombstone of the queue."""
        task = self._drop(task_id)
        if task is not None:
            self._reserve(task_id, now)
        return task

    def is_name_taken(self, task_id: str, now: float) -> bool:
        return task_id in self.tasks or self.existed_recently(task_id, now)

    def existed_recently(self, task_id: str, now: float) -> bool:
        """Whether a task with this id existed recently."""
        return self.tombstones.get(task_id, 0.0) > now

    def purge(self, *, now: float) -> None:
        """Delete every task; attempts under way end without consequence."""
        for task_id in list(self.tasks):
            self.remove(task_id, now=now)
        self._heap.clear()
        self.purge_time = now

    def configure(self, config: QueueConfig, *, now: float) -> None:
        """Change the configuration; the bucket keeps the tokens that it has."""
        self._bucket.refill(self.rate(now), now)
        self.config = config
        self._bucket.burst = config.burst
        self._bucket.tokens = min(self._bucket.tokens, config.burst)

    # For the dispatcher.

    def delay(self, now: float) -> float | None:
        """Seconds until `take` has a task; None if only another event changes that."""
        head = self._head()
        if self.paused or head is None or self.running >= self.config.concurrency:
            return None
        wait = max(head.eta - now, 0.0)
        if not self.rate_limits:
            return wait
        rate = self.rate(now)
        self._bucket.refill(rate, now)
        return max(wait, self._bucket.delay(rate), self._throttle.delay(now))

    def take(self, now: float, shuffle: random.Random | None = None) -> Dispatch | None:
        """The next task to dispatch, or None when the limits allow none now.

        Tasks leave in the order of their schedule. With `shuffle`, a random one of
        those that are due goes first, as the service may do.
        """
        if self.delay(now) != 0.0:
            return None
        task = self._pop() if shuffle is None else self._pop_any(now, shuffle)
        if self.rate_limits:
            self._bucket.take()
        self.running += 1
        return self._begin(task, now, forced=False)

    def force(self, task: Task, now: float) -> Dispatch:
        """Dispatch a task despite rate, schedule and pause, as RunTask does."""
        task.ticket = 0
        task.eta = now
        return self._begin(task, now, forced=True)

    def finish(self, dispatch: Dispatch, response: Response, *, now: float) -> Verdict:
        """Record the response; delete the task or schedule its next attempt."""
        task = dispatch.task
        task.running -= 1
        self.responses.add(now)
        if not dispatch.forced:
            self.running -= 1
        self._watch_for_congestion(task, response, now)
        if self.tasks.get(task.id) is not task:
            return Verdict.GONE
        _record(task, dispatch, response, now)
        if response.ok:
            self.remove(task.id, now=now)
            return Verdict.DONE
        return self._fail(dispatch, response, now)

    def policy_of(self, task: Task) -> RetryPolicy:
        """The queue's retry policy, with the fields that the task itself sets."""
        if has(task.message, "retry_config"):
            return policies.overridden(self.config.retry, task.message.retry_config)
        return self.config.retry

    def waits(self, task: Task, count: int) -> list[float]:
        """Seconds between the next attempts of a task, if all of them fail."""
        policy, done = self.policy_of(task), max(task.dispatch_count, 1)
        left = policy.max_attempts - done - 1 if policy.max_attempts > 0 else count
        return [policies.backoff(policy, done + 1 + i) for i in range(min(left, count))]

    def next_eta(self) -> float | None:
        head = self._head()
        return None if head is None else head.eta

    def drop_expired(self, now: float) -> list[Task]:
        """Remove the tasks that are older than the queue's retention."""
        limit = now - self.config.retention
        old = [task for task in self.tasks.values() if task.created <= limit]
        for task in old:
            self._drop(task.id)
        return old

    def throttle_factor(self, now: float) -> float:
        """The part of the rate that throttling lets through; 0 after a Retry-After."""
        return 0.0 if self._throttle.delay(now) else self._throttle.factor(now)

    def rate(self, now: float) -> float:
        """Dispatches per second that are allowed now, throttling included."""
        return self.config.rate * self._throttle.factor(now)

    # The heap can't remove from its middle. A task that is deleted, taken or scheduled
    # anew gets another ticket, and its old entries are skipped when they come up.

    def _enlist(self, task: Task, eta: float) -> None:
        self._tickets += 1
        task.ticket = self._tickets
        task.eta = eta
        heapq.heappush(self._heap, (eta, task.ticket, task))

    def _head(self) -> Task | None:
        heap = self._heap
        while heap and heap[0][2].ticket != heap[0][1]:
            heapq.heappop(heap)
        return heap[0][2] if heap else None

    def _pop(self) -> Task:
        task = heapq.heappop(self._heap)[2]
        task.ticket = 0
        return task

    def _pop_any(self, now: float, shuffle: random.Random) -> Task:
        due: list[tuple[float, int, Task]] = []
        while len(due) < _REORDER_WINDOW and (head := self._head()) is not None:
            if head.eta > now:
                break
            due.append(heapq.heappop(self._heap))
        chosen = due.pop(shuffle.randrange(len(due)))[2]
        for entry in due:
            heapq.heappush(self._heap, entry)
        chosen.ticket = 0
        return chosen

    def _begin(self, task: Task, now: float, *, forced: bool) -> Dispatch:
        previous = task.last_attempt
        task.running += 1
        task.dispatch_count += 1
        if task.first_dispatch is None:
            task.first_dispatch = now
        task.last_attempt = Attempt(schedule_time=task.eta, dispatch_time=now)
        return Dispatch(
            task=task,
            number=task.dispatch_count,
            schedule_time=task.eta,
            dispatch_time=now,
            response_count=task.response_count,
            execution_count=task.execution_count,
            previous=previous,
            forced=forced,
        )

    def _fail(self, dispatch: Dispatch, response: Response, now: float) -> Verdict:
        task, policy = dispatch.task, self.policy_of(dispatch.task)
        exhausted = policies.is_exhausted(
            policy,
            attempts=task.dispatch_count,
            first_attempt=task.first_dispatch or now,
            now=now,
        )
        if exhausted:
            self.remove(task.id, now=now)
            return Verdict.EXHAUSTED
        # RunTask counts the delay from the call, a normal attempt from its failure.
        start = dispatch.dispatch_time if dispatch.forced else now
        wait = policies.backoff(policy, task.dispatch_count)
        if response.retry_after is not None and not task.is_app_engine:
            wait = max(wait, min(response.retry_after, LONGEST_HOLD))
        self._enlist(task, start + wait)
        return Verdict.RETRY

    def _watch_for_congestion(self, task: Task, response: Response, now: float) -> None:
        if response.status == 503 and task.is_app_engine:
            self._throttle.congest(now, None)
        elif response.status in (429, 503) and not task.is_app_engine:
            self._throttle.congest(now, response.retry_after)

    def _drop(self, task_id: str) -> Task | None:
        task = self.tasks.pop(task_id, None)
        if task is not None:
            task.ticket = 0
        return task

    def _reserve(self, task_id: str, now: float) -> None:
        self.tombstones.pop(task_id, None)
        self.tombstones[task_id] = now + self.config.tombstone
        # Oldest first: with each new one, up to two expired ones at the front go.
        for old in list(islice(self.tombstones, 2)):
            if self.tombstones[old] <= now:
                del self.tombstones[old]


def _record(task: Task, dispatch: Dispatch, response: Response, now: float) -> None:
    task.last_attempt = Attempt(
        dispatch.schedule_time, dispatch.dispatch_time, now, response.status
    )
    if response.status is None:
        return
    task.response_count += 1
    if response.status < 500:
        task.execution_count += 1
