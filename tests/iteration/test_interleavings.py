"""Two copies of one delivery, step by step from failpoint to failpoint.

Each copy runs in a thread of its own, with a connection of its own; only one of them
moves at a time. All schedules with at most SWITCHES changes from one to the other are
tried, where the first copy begins; CLOUDTASK_TEST_SWITCHES=3 tries 817 of them.
"""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from itertools import combinations

import pytest
from django.db import connections

from cloudtask import envelope, failpoints, runtime
from cloudtask.iteration import RunState
from cloudtask.iteration import list as list_runs
from cloudtask.message import Delivery
from cloudtask.runs import ShardState
from cloudtask.stores import store
from tests.durability.database import committing
from tests.iteration import tasks
from tests.iteration.matrix import POINTS
from tests.iteration.tasks import trace
from tests.iteration.world import World
from tests.support import clock
from tests.support.waiting import PATIENCE
from tests.testapp.models import Author

ROWS = 4
SWITCHES = int(os.environ.get("CLOUDTASK_TEST_SWITCHES", "2"))
LONGEST = {"plan": 8, "walk": 16, "finalize": 8}  # points that a copy passes, about


class Copy:
    """One delivery in a thread that stops at every failpoint."""

    def __init__(self, body: bytes) -> None:
        self.body = body
        self.go, self.rests = threading.Semaphore(0), threading.Semaphore(0)
        self.is_over = self.is_settled = False
        self.thread = threading.Thread(target=self.run)
        self.thread.start()

    def run(self) -> None:
        self.go.acquire()
        try:
            message = envelope.unseal(self.body, now=clock.now())
            outcome = runtime.execute(message, Delivery())
            self.is_settled = outcome.is_settled
        except Exception:  # noqa: BLE001  it is delivered again
            self.is_settled = False
        finally:
            connections.close_all()
            self.is_over = True
            self.rests.release()

    def pause(self) -> None:
        """Called by the thread, at a failpoint."""
        self.rests.release()
        self.go.acquire()

    def step(self) -> None:
        """Let it run to its next point."""
        if not self.is_over:
            self.go.release()
            assert self.rests.acquire(timeout=PATIENCE), "it waits for the other copy"


@contextmanager
def stepping(copies: list[Copy]) -> Iterator[None]:
    threads = {copy.thread: copy for copy in copies}

    def pause() -> None:
        copy = threads.get(threading.current_thread())
        if copy is not None:
            copy.pause()

    with ExitStack() as stack:
        for point in POINTS:
            stack.enter_context(failpoints.at(point, pause))
        yield


def schedules(of: str) -> list[tuple[int, ...]]:
    """Steps at which the other copy's turn comes."""
    return [
        switches
        for count in range(SWITCHES + 1)
        for switches in combinations(range(0, 2 * LONGEST[of], 2), count)
    ]


def play(first: Copy, second: Copy, switches: tuple[int, ...]) -> None:
    turn, other = first, second
    at = 0
    with stepping([first, second]):
        while not (first.is_over and second.is_over):
            if at in switches or turn.is_over:
                turn, other = other, turn
            turn.step()
            at += 1
    first.thread.join()
    second.thread.join()


def race(world: World, of: str, switches: tuple[int, ...]) -> None:
    """Deliver in order until a delivery of `of` is next; two copies of it race."""
    while True:
        chosen = world.next()
        assert chosen is not None
        due, _, entry, retries = chosen
        clock.move(max(0.0, due - clock.now()))
        if entry.message.task.endswith(f".{of}"):
            break
        world.deliver(entry, retries)
    copies = Copy(entry.body), Copy(entry.body)
    play(*copies, switches)
    if not all(copy.is_settled for copy in copies):
        world.add(entry, clock.now() + 1, retries + 1)
    world.run()


@pytest.mark.exhaustive(sample=1)
@pytest.mark.django_db(databases=["default", "other"])
@pytest.mark.parametrize("of", ["plan", "walk", "finalize"])
def test_two_copies_of_a_delivery_do_its_work_once(of, tmp_path, one_in):
    with committing(tmp_path):
        Author.objects.bulk_create(Author(name=str(n)) for n in range(ROWS))
        keys = set(Author.objects.values_list("pk", flat=True))
        tried = one_in(8, schedules(of))
        for switches in tried:
            trace.clear()
            trace.pace = 0.0
            tasks.visit_only.iterate(
                Author.objects.all(),
                finalize=tasks.finalize,
                shards=2,
                keep=True,
                transactional=False,
            )
            race(World(), of, switches)

            assert Counter(trace.rows) == dict.fromkeys(keys, 1), switches
            assert trace.calls.count("finalize") == 1, switches
            run = list_runs()[0]
            assert run.state is RunState.FINISHED
            shards = store().load_shards(run.id)
            assert {shard.state for shard in shards} == {ShardState.DONE}
            assert run.report().done == ROWS
            store().delete_run(run.id)
        print(f"\n{of}: {len(tried)} schedules of two copies, each row once")
