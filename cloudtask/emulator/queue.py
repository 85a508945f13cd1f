"""A queue: which task may be dispatched when, and what follows from its response.

Nothing here waits, sends, or looks at a clock: `now` and the random generator are
arguments, so a test can live through hours in milliseconds.

A task's life::

    add -> waiting -> take or force -> running -> finish -> gone, or waiting again
"""

from __future__ import annotations

import enum
import heapq
import random
from itertools import islice

from cloudtask.emulator import retry
from cloudtask.emulator.attempt import Attempt, Response
from cloudtask.emulator.bucket import Bucket
from cloudtask.emulator.queue_config import QueueConfig
from cloudtask.emulator.retry import RetryPolicy
from cloudtask.emulator.task import Dispatch, Task
from cloudtask.emulator.throttle import LONGEST_HOLD, Throttle

_REORDER_WINDOW = 32


class Verdict(enum.Enum):
    """What a response did to its task."""

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
        self._throttle = Throttle()
        self._heap: list[tuple[float, int, Task]] = []
        self._tickets = 0

    # What clients do.

    def add(self, task: Task) -> None:
        self.tasks[task.id] = task
        self._enlist(task, task.eta)

    def remove(self, task_id: str, *, now: float, remember: float) -> Task | None:
        """Delete a task and keep its name from being used for `remember` seconds."""
        task = self.tasks.pop(task_id, None)
        if task is not None:
            task.ticket = 0
            self._bury(task_id, now + remember, now)
        return task

    def is_name_taken(self, task_id: str, now: float) -> bool:
        return task_id in self.tasks or self.is_buried(task_id, now)

    def is_buried(self, task_id: str, now: float) -> bool:
        """Whether a task with this id existed recently."""
        return self.tombstones.get(task_id, 0.0) > now

    def purge(self, *, now: float, remember: float) -> list[Task]:
        """Delete every task; those under way finish, but nothing follows from it."""
        purged = list(self.tasks.values())
        for task in purged:
            self.remove(task.id, now=now, remember=remember)
        self._heap.clear()
        self.purge_time = now
        return purged

    def configure(self, config: QueueConfig, *, now: float) -> None:
        """Change the configuration; the tokens saved up so far are kept."""
        self._bucket.refill(self._rate(now), now)
        self.config = config
        self._bucket.burst = config.burst
        self._bucket.tokens = min(self._bucket.tokens, config.burst)

    # What the dispatcher does.

    def delay(self, now: float) -> float | None:
        """Seconds until `take` has a task; None while only an event can bring one."""
        head = self._head()
        if self.paused or head is None or self.running >= self.config.concurrency:
            return None
        wait = max(head.eta - now, 0.0)
        if not self.rate_limits:
            return wait
        rate = self._rate(now)
        self._bucket.refill(rate, now)
        return max(wait, self._bucket.delay(rate), self._throttle.delay(now))

    def take(self, now: float, shuffle: random.Random | None = None) -> Dispatch | None:
        """The next task to dispatch, if the limits let one go now.

        Tasks leave in the order of their schedule; with `shuffle`, a random one of
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
        """Dispatch a task whatever the rate, the schedule and the state (RunTask)."""
        task.ticket = 0
        task.eta = now
        return self._begin(task, now, forced=True)

    def finish(
        self, dispatch: Dispatch, response: Response, *, now: float, remember: float
    ) -> Verdict:
        """Record the response and decide what becomes of the task."""
        task = dispatch.task
        task.running -= 1
        if not dispatch.forced:
            self.running -= 1
        self._watch_for_congestion(task, response, now)
        if self.tasks.get(task.id) is not task:
            return Verdict.GONE
        _record(task, dispatch, response, now)
        if response.ok:
            self.remove(task.id, now=now, remember=remember)
            return Verdict.DONE
        return self._fail(dispatch, response, now, remember)

    def policy_of(self, task: Task) -> RetryPolicy:
        """The queue's retry policy, with what the task sets over it."""
        if task.message.HasField("retry_config"):
            return retry.overridden(self.config.retry, task.message.retry_config)
        return self.config.retry

    def next_eta(self) -> float | None:
        head = self._head()
        return None if head is None else head.eta

    def drop_expired(self, now: float) -> list[Task]:
        """Remove the tasks that outlived the retention of 31 days."""
        limit = now - retry.RETENTION
        old = [task for task in self.tasks.values() if task.created <= limit]
        for task in old:
            self.remove(task.id, now=now, remember=0.0)
        return old

    def throttle_factor(self, now: float) -> float:
        """What part of the rate system throttling lets through, 0 while held."""
        return 0.0 if self._throttle.delay(now) else self._throttle.factor(now)

    def _rate(self, now: float) -> float:
        return self.config.rate * self._throttle.factor(now)

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

    def _fail(
        self, dispatch: Dispatch, response: Response, now: float, remember: float
    ) -> Verdict:
        task, policy = dispatch.task, self.policy_of(dispatch.task)
        exhausted = retry.is_exhausted(
            policy,
            attempts=task.dispatch_count,
            first_attempt=task.first_dispatch or now,
            now=now,
        )
        if exhausted:
            self.remove(task.id, now=now, remember=remember)
            return Verdict.EXHAUSTED
        # RunTask counts the delay from the call, a normal attempt from its failure.
        start = dispatch.dispatch_time if dispatch.forced else now
        wait = retry.backoff(policy, task.dispatch_count)
        if response.retry_after is not None and not task.is_app_engine:
            wait = max(wait, min(response.retry_after, LONGEST_HOLD))
        self._enlist(task, start + wait)
        return Verdict.RETRY

    def _watch_for_congestion(self, task: Task, response: Response, now: float) -> None:
        if response.status == 503 and task.is_app_engine:
            self._throttle.congest(now, None)
        elif response.status in (429, 503) and not task.is_app_engine:
            self._throttle.congest(now, response.retry_after)

    def _bury(self, task_id: str, until: float, now: float) -> None:
        self.tombstones.pop(task_id, None)
        self.tombstones[task_id] = until
        # Oldest first: what has expired at the front goes, a few with each new one.
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
