"""A site with rows in all tables, or entities of all kinds, and all that reads them.

Everything exists twice, with the tag "ours" and with "theirs". Someone writes to what
is ours; what is theirs must go on.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from io import StringIO
from random import Random
from typing import Any

from django.core.management import call_command
from django.db import transaction
from django.utils import timezone

from cloudtask import iteration, stores
from cloudtask.iteration import sweep
from cloudtask.models import ScheduleRow
from cloudtask.receipts import Receipt
from cloudtask.runs import RunState
from cloudtask.sending import relay
from cloudtask.transports import memory
from tests.iteration.models import Thing
from tests.iteration.world import World
from tests.support import clock
from tests.tampering import tasks
from tests.tampering.values import CLEAR, NEVER_IMPORTED
from tests.testapp.tasks import Bomb

SETTINGS = {"TRUSTED_MODULES": ["tests.tampering"], "MAX_TASK_SIZE": 20_000}
TAGS = ("ours", "theirs")
LARGE = Random(0).randbytes(30_000).hex()  # more than a task can carry
KEYS = {"ours": range(1, 9), "theirs": range(11, 19)}


@dataclass
class Site:
    """What the rows belong to, by tag.

    `list_rows` returns what identifies each row or entity there is.
    """

    list_rows: Callable[[], set[Any]]
    rows: dict[str, set[Any]] = field(default_factory=dict)
    results: dict[str, Receipt[Any]] = field(default_factory=dict)
    kept: dict[str, Any] = field(default_factory=dict)
    runs: dict[str, Any] = field(default_factory=dict)
    texts: list[str] = field(default_factory=list)
    told: list[Any] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def make(self) -> Site:
        for begin in (self._fail_and_give, self._leave):
            for tag in TAGS:
                before = self.list_rows()
                begin(tag)
                made = self.list_rows() - before
                self.rows[tag] = self.rows.get(tag, set()) | made
        return self

    def _fail_and_give(self, tag: str) -> None:
        tasks.fail.using(transactional=False).defer(tag)
        self.results[tag] = tasks.give.using(transactional=False).defer(tag)
        tasks.once.using(transactional=False).defer(tag)
        self.kept[tag] = tasks.give_kept.enqueue(tag).id
        relay_all()
        World().drain()
        stores.store().note_start(f"late-{tag}")
        stores.store().note_upkeep(f"upkeep-{tag}", "text")
        ScheduleRow.objects.create(
            key=f"schedule-{tag}",
            task=tag,
            schedule="0 0 * * *",
            last_at=timezone.now(),
        )

    def _leave(self, tag: str) -> None:
        """Leave calls in the outbox, and an iteration in the middle."""
        Thing.objects.bulk_create(Thing(id=key) for key in KEYS[tag])
        run = tasks.visit.iterate(
            Thing.objects.filter(pk__in=KEYS[tag]),
            args=(tag,),
            finalize=tasks.finish,
            shards=2,
            keep=True,
            on_error="skip",
            transactional=False,
        )
        self.runs[tag] = run
        world = World()
        while not _has_failed(run):
            assert world.step()
        memory.queue().put_back(entry for _, _, entry, _ in world.waiting)
        for one in (tasks.plain, tasks.once, tasks.single):
            one.using(transactional=True).defer(tag)
        tasks.plain.using(transactional=True).defer(tag, LARGE)

    # Reading

    def read_all(self) -> None:
        """Do all that reads what rests, as a site does in the course of time."""
        clock.move(4000)
        self._try(lambda: relay_all())
        self._try(World().drain)
        self._try(lambda: [tasks.single.defer(tag) for tag in TAGS])
        self._try(sweep)
        clock.move(4000)
        self._try(sweep)
        self._try(lambda: relay_all())
        self._try(World().drain)
        for tag in TAGS:
            self._tell(tag)
        for line in (
            ("cloudtask_failed", "list"),
            ("cloudtask_relay", "--parked"),
            ("cloudtask_failed", "retry", "--all"),
        ):
            self._command(*line)
        self._try(World().drain)
        self._command("cloudtask_prune")

    def _tell(self, tag: str) -> None:
        for tell in (self._tell_result, self._tell_kept, self._tell_run):
            self._try(partial(tell, tag))

    def _tell_result(self, tag: str) -> None:
        self.told.append((tag, self.results[tag].result(timeout=0)))

    def _tell_kept(self, tag: str) -> None:
        found = tasks.give_kept.get_result(self.kept[tag])
        self.told.append((tag, found.return_value))

    def _tell_run(self, tag: str) -> None:
        run = iteration.get(self.runs[tag].id)
        self.texts.append(repr(run))
        run.progress()
        for failure in run.failures():
            if failure.key:
                self.told.append((tag, int(failure.key)))

    def _try(self, action: Callable[[], Any]) -> None:
        try:
            action()
        except Exception as error:  # noqa: BLE001  a refusal is an answer
            self.problems.append(f"{type(error).__name__}: {error}")

    def _command(self, *line: str) -> None:
        out = StringIO()
        with suppress(Exception):
            call_command(*line, stdout=out, stderr=out)
        self.texts.append(out.getvalue())

    def check(self) -> None:
        """Nothing was decoded, imported, called or told that is not what it was."""
        assert Bomb.decoded == []
        assert NEVER_IMPORTED not in sys.modules
        assert not [text for text in self.texts if CLEAR in text]
        for name, value in tasks.called:
            if name.startswith("visit "):
                assert value in KEYS[name.removeprefix("visit ")], (name, value)
            else:
                assert value in TAGS, (name, value)
                assert name != "secret"
        for tag, told in self.told:
            expected = {f"{tag} is given", *KEYS[tag]}
            assert told in expected, (tag, told)

    def check_theirs(self) -> None:
        """What nobody wrote to has gone on."""
        problems = self.problems
        for name in ("plain", "once", "single"):
            assert (name, "theirs") in tasks.called, (name, problems)
        found = iteration.get(self.runs["theirs"].id)
        assert found.state is RunState.FINISHED, (found.error, problems)
        assert ("theirs", "theirs is given") in self.told, problems


def relay_all() -> None:
    relay.relay("default")


def _has_failed(run: Any) -> bool:
    return any(True for _ in run.failures())


@contextmanager
def undone(site: Site) -> Iterator[None]:
    """Nothing that the block does to tables, the queue or the site remains."""
    queue, called = memory.queue(), list(tasks.called)
    heap, names = list(queue.heap), dict(queue.names)
    block: Any = transaction.atomic()
    block._from_testcase = True  # as Django's test cases say of theirs
    with block:
        yield
        transaction.set_rollback(True)
    queue.clear()
    queue.heap[:], queue.names = heap, names
    tasks.called[:] = called
    for one in (site.texts, site.told, site.problems):
        one.clear()
