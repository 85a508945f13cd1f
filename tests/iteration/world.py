"""A queue that delivers as badly as Cloud Tasks may, in virtual time.

`World.run()` delivers what the memory transport holds until nothing is left, the way
the service would: what was not answered is delivered again, later. A fault happens at
one passage of one failpoint, or at one call of CreateTask.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta

from cloudtask import conf, envelope, failpoints, runtime
from cloudtask.exceptions import EnqueueUnavailable
from cloudtask.failpoints import Crashed
from cloudtask.iteration import sweep
from cloudtask.message import Delivery, Message
from cloudtask.transports import memory
from cloudtask.transports.memory import Stage, Waiting
from tests.support import clock

LONGEST = 3000  # deliveries; a run that takes more never ends
LATE = 3600.0  # seconds after which a duplicate comes once more
CREATE_TASK = "create_task"  # a point that is not the library's


class Hiccup(Exception):
    """An error that a fault raises: the store or the service failed."""


@dataclass
class World:
    """`order` picks the next delivery: "eta", or "random" by `seed`."""

    order: str = "eta"
    seed: int = 0
    deliveries: Counter[str] = field(default_factory=Counter)
    delivered: list[tuple[Waiting, int]] = field(default_factory=list)
    crashes: int = 0
    errors: list[Exception] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)
        self.waiting: list[tuple[float, int, Waiting, int]] = []
        self.count = 0

    def collect(self) -> None:
        """Take over what was enqueued."""
        queue = memory.queue()
        while (entry := queue.pop()) is not None:
            self.add(entry, entry.due, retries=0)

    def add(self, entry: Waiting, due: float, retries: int) -> None:
        self.count += 1
        self.waiting.append((due, self.count, entry, retries))

    def next(self) -> tuple[float, int, Waiting, int] | None:
        self.collect()
        if not self.waiting:
            return None
        if self.order == "random":
            chosen = self.random.choice(self.waiting)
        else:
            chosen = min(self.waiting, key=lambda one: one[:2])
        self.waiting.remove(chosen)
        return chosen

    def purge(self) -> None:
        """Lose all that waits, as `gcloud tasks queues purge` does; names are taken."""
        self.collect()
        self.waiting.clear()

    def run(self) -> None:
        """Deliver until nothing waits, sweeping now and then like cron."""
        self.drain()
        self.later()
        while sweep():
            self.drain()
            self.later()

    def pass_time(self, minutes: int) -> None:
        """Deliver what is due and sweep, every five minutes."""
        for _ in range(0, minutes, 5):
            self.collect()
            for chosen in [one for one in self.waiting if one[0] <= clock.now()]:
                self.waiting.remove(chosen)
                self.deliver(chosen[2], chosen[3])
            clock.move(5 * 60)
            sweep()

    def later(self) -> None:
        """Let the sweeper's patience pass."""
        clock.move(conf.settings().sweep_after.total_seconds() + 1)

    def drain(self, longest: int = LONGEST) -> None:
        for _ in range(longest):
            if not self.step():
                return
        raise AssertionError(f"no end after {longest} deliveries: {self.deliveries}")

    def step(self) -> bool:
        """Deliver once; False when nothing waits."""
        chosen = self.next()
        if chosen is None:
            return False
        due, _, entry, retries = chosen
        clock.move(max(0.0, due - clock.now()))
        self.deliver(entry, retries)
        return True

    def deliver(self, entry: Waiting, retries: int) -> None:
        message = envelope.unseal(entry.body, now=clock.now())
        self.deliveries[message.task.rpartition(".")[2]] += 1
        self.delivered.append((entry, retries))
        try:
            outcome = runtime.execute(message, Delivery(retries=retries))
        except Crashed:
            self.crashes += 1
            settled = False
        except Exception as error:  # noqa: BLE001  the service tries again
            self.errors.append(error)
            settled = False
        else:
            settled = outcome.is_settled
        if not settled:
            # The service waits longer each time; a dead owner's lease ends meanwhile.
            self.add(entry, clock.now() + min(2.0**retries, 60.0), retries + 1)

    def again(self) -> None:
        """Deliver once more what was delivered last, now, within its delivery."""
        self.deliver(*self.delivered[-1])


def crash(world: World) -> None:
    """The process is killed; Cloud Tasks gets no answer."""
    raise Crashed


def fail(world: World) -> None:
    raise Hiccup("a store or the service failed")


def duplicate(world: World) -> None:
    """The delivery under way comes again when it is over, and once more much later."""
    if world.delivered:
        entry, retries = world.delivered[-1]
        world.add(entry, clock.now(), retries)
        world.add(entry, clock.now() + LATE, retries)


def duplicate_within(world: World) -> None:
    if world.delivered:
        world.again()


def reorder(world: World) -> None:
    """From here on, deliveries come in no order."""
    world.order = "random"


def outlive_lease(world: World) -> None:
    """The delivery hangs until its lease is over; another one comes meanwhile."""
    clock.move((conf.settings().lease + timedelta(seconds=1)).total_seconds())
    if world.delivered:
        world.again()


FAULTS: dict[str, Callable[[World], None]] = {
    "crash": crash,
    "exception": fail,
    "duplicate": duplicate,
    "concurrent duplicate": duplicate_within,
    "reorder": reorder,
    "delay past the lease": outlive_lease,
}
STAGES: dict[str, Stage] = {"raised, not created": "before", "raised, created": "after"}


@contextmanager
def fault_at(world: World, point: str, passage: int, fault: str) -> Iterator[list[int]]:
    """Let `fault` happen at the `passage`-th time that `point` is reached; the list
    holds how often it was."""
    passed = [0]

    def passes() -> bool:
        passed[0] += 1
        return passed[0] == passage

    def act() -> None:
        if passes():
            FAULTS[fault](world)

    def trouble(message: Message, stage: Stage) -> None:
        if stage == STAGES[fault] and passes():
            raise EnqueueUnavailable("Cloud Tasks did not answer")

    if point == CREATE_TASK:
        memory.queue().trouble = trouble
        yield passed
        memory.queue().trouble = None
        return
    with failpoints.at(point, act):
        yield passed
