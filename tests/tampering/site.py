"""A site with rows in all tables, or entities of all kinds, and all that reads them.

Everything exists twice, with the tag "ours" and with "theirs". Someone writes to what
is ours; what is theirs must go on.
"""

from __future__ import annotations

import logging
import re
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import timedelta
from functools import partial
from http import HTTPStatus
from io import StringIO
from random import Random
from typing import Any

from django.contrib.auth.models import User
from django.core.management import CommandError, call_command
from django.db import transaction
from django.test import Client, override_settings
from django.utils import timezone

from cloudtask import Schedule, group, iteration, stores
from cloudtask.backend.library import TaskResultDoesNotExist
from cloudtask.exceptions import CloudTaskError, EnqueueUnavailable
from cloudtask.iteration import sweep
from cloudtask.models import ScheduleRow
from cloudtask.receipts import Receipt
from cloudtask.runs import RunState
from cloudtask.schedules import declare, declared
from cloudtask.schedules.declared import _declared
from cloudtask.schedules.ticking import tick
from cloudtask.sending import relay
from cloudtask.transports import memory
from cloudtask.transports.memory import Waiting
from tests.iteration.models import Thing
from tests.iteration.world import World
from tests.support import clock
from tests.tampering import tasks
from tests.tampering.values import CLEAR, NEVER_IMPORTED
from tests.testapp.tasks import Bomb

SETTINGS = {"TRUSTED_MODULES": ["tests.tampering"], "MAX_TASK_SIZE": 20_000}
HOURLY = timedelta(hours=1)
TAGS = ("ours", "theirs")
LARGE = Random(0).randbytes(30_000).hex()  # more than a task can carry
KEYS = {"ours": range(1, 9), "theirs": range(11, 19)}
COLLECTED = {tag: [f"{tag} is given"] * 2 for tag in TAGS}
MOST_DELIVERIES = 300  # of all tasks of a site
LISTS = (
    ("cloudtask_relay",),
    ("cloudtask_failed", "list"),
    ("cloudtask_failed", "list", "--group-by", "error"),
    ("cloudtask_relay", "--parked"),
    ("cloudtask_outbox", "list"),
    ("cloudtask_iterations", "list"),
    ("cloudtask_iterations", "list", "--limit", "1"),
    ("cloudtask_schedules", "list"),
    ("cloudtask_tasks", "list"),
    ("cloudtask_status",),
)
LISTED = tuple(f"/tasks/{part}" for part in ("", "iteration/", "failed/", "outbox/"))
LISTED += ("/tasks/task/", "/tasks/result/")


class Logged(logging.Handler):
    """The texts of our log records."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts += (record.getMessage(), record.exc_text or "")


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
    crashes: list[str] = field(default_factory=list)
    logged: Logged = field(default_factory=Logged)
    visitor: Client = field(
        default_factory=lambda: Client(raise_request_exception=False)
    )
    queued: tuple[list[Any], dict[Any, Any]] = ([], {})
    called: list[Any] = field(default_factory=list)
    left: list[Waiting] = field(default_factory=list)

    def make(self) -> Site:
        self.visitor.force_login(User.objects.create(username="ann", is_superuser=True))
        for begin in (self._fail_and_give, self._gather, self._leave):
            for tag in TAGS:
                before = self.list_rows()
                begin(tag)
                made = self.list_rows() - before
                self.rows[tag] = self.rows.get(tag, set()) | made
        there = self.list_rows()
        self.rows = {tag: made & there for tag, made in self.rows.items()}
        queue = memory.queue()
        queue.put_back(self.left)
        self.queued = list(queue.heap), dict(queue.names)
        self.called = list(tasks.called)
        self.forget()
        return self

    def forget(self) -> None:
        """Forget what was read, and what was called since all rows were made."""
        tasks.called[:] = self.called
        for one in (self.texts, self.told, self.problems, self.crashes):
            one.clear()
        self.logged.texts.clear()

    def _fail_and_give(self, tag: str) -> None:
        tasks.fail.using(transactional=False).defer(tag)
        self.results[tag] = tasks.give.using(transactional=False).defer(tag)
        tasks.once.using(transactional=False).defer(tag)
        self.kept[tag] = tasks.give_kept.enqueue(tag).id
        relay_all()
        World().drain()
        stores.store().note_start(f"late-{tag}")
        stores.store().begin_call(f"begun-{tag}")
        stores.store().note_upkeep(f"upkeep-{tag}", "text")
        schedule = declared()[f"schedule-{tag}"]
        ScheduleRow.objects.create(
            key=schedule.key,
            task=schedule.definition.path,
            schedule=schedule.text,
            last_at=timezone.now(),
        )

    def _gather(self, tag: str) -> None:
        """Leave a group in the middle."""
        later = tasks.give.using(countdown=50_000).s(tag)
        members = group(tasks.give.s(tag), later)
        members.then(tasks.collect.s()).using(transactional=False).defer()
        clock.move(4000)
        relay_all()
        world = World()
        while ("give", tag) not in tasks.called[-1:]:
            assert world.step()
        self._keep(world)

    def _keep(self, world: World) -> None:
        """Keep aside what is left for one tag, so that it is not run for the next."""
        self.left += [entry for _, _, entry, _ in world.waiting]

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
        self._keep(world)
        for one in (tasks.plain, tasks.once, tasks.single):
            one.using(transactional=True).defer(tag)
        tasks.plain.using(transactional=True).defer(tag, LARGE)

    # Reading

    def read_all(self, *, lists: bool = True) -> None:
        """Do all that reads what rests, as a site does in the course of time; with
        `lists` also what only shows it."""
        clock.move(4000)
        self._try(tick)
        self._try(relay_all)
        self._try(self._deliver)
        self._try(lambda: [tasks.single.defer(tag) for tag in TAGS])
        self._try(sweep)
        clock.move(4000)
        self._try(sweep)
        self._try(relay_all)
        self._try(self._deliver)
        for tag in TAGS:
            self._tell(tag)
        if lists:
            self._list()
        self._command("cloudtask_failed", "retry", "--all")
        self._try(self._deliver)
        self._command("cloudtask_prune")

    def _deliver(self) -> None:
        world = World()
        try:
            world.drain(MOST_DELIVERIES)
        finally:
            for error in world.errors:
                self._note(error)

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
            self._note(error)

    def _note(self, error: Exception) -> None:
        """Note an error that is no answer of ours."""
        if str(error).startswith("The call ") and "has no result" in str(error):
            return
        if isinstance(error, TaskResultDoesNotExist):  # under another id
            return
        if isinstance(error, EnqueueUnavailable) or not isinstance(
            error, CloudTaskError | CommandError | LookupError
        ):
            trace = "".join(traceback.format_exception(error))
            self.crashes.append(trace)

    def _command(self, *line: str) -> None:
        out = StringIO()
        try:
            call_command(*line, stdout=out, stderr=out)
        except Exception as error:  # noqa: BLE001  noted
            self._note(error)
        self.texts.append(out.getvalue())

    def _list(self) -> None:
        """Call the commands, and visit the pages, those of each thing included."""
        for line in LISTS:
            self._command(*line)
        for place in LISTED:
            text = self._page(place)
            for link in sorted(set(re.findall(rf"{place}[^/\"]+/change/", text))):
                self._page(link)

    def _page(self, place: str) -> str:
        answer = self.visitor.get(place)
        if answer.status_code >= HTTPStatus.INTERNAL_SERVER_ERROR:
            self.crashes.append(f"{place}: {answer.status_code}")
        text = answer.content.decode()
        self.texts.append(text)
        return text

    def check(self) -> None:
        """Nothing was decoded, imported, called or told that is not what it was."""
        assert Bomb.decoded == []
        assert NEVER_IMPORTED not in sys.modules
        for text in (*self.texts, *self.logged.texts):
            assert CLEAR not in text, text
        for name, value in tasks.called:
            if name.startswith("visit "):
                assert value in KEYS[name.removeprefix("visit ")], (name, value)
            elif name == "collect":
                assert value in COLLECTED.values(), value
            else:
                assert value in TAGS, (name, value)
                assert name != "secret"
        for tag, told in self.told:
            expected = {f"{tag} is given", *KEYS[tag]}
            assert told in expected, (tag, told)

    def check_ours(self, *columns: str) -> None:
        """Nothing has crashed. The run has ended, and if it is FAILED, the reason is
        one of the columns."""
        assert self.crashes == [], self.crashes[0]
        with suppress(LookupError):
            found = iteration.get(self.runs["ours"].id)
            assert found.state in (RunState.FINISHED, RunState.FAILED), found.state
            if found.state is RunState.FAILED:
                named = any(f" / {one} " in found.error for one in columns)
                assert named, (columns, found.error)

    def check_theirs(self) -> None:
        """What nobody wrote to has gone on."""
        problems = self.problems
        for name in ("plain", "once", "single", "due"):
            assert (name, "theirs") in tasks.called, (name, problems)
        assert ("collect", COLLECTED["theirs"]) in tasks.called, problems
        found = iteration.get(self.runs["theirs"].id)
        assert found.state is RunState.FINISHED, (found.error, problems)
        assert ("theirs", "theirs is given") in self.told, problems


def relay_all() -> None:
    relay.relay("default")


def _has_failed(run: Any) -> bool:
    return any(True for _ in run.failures())


@contextmanager
def prepared(list_rows: Callable[[], set[Any]], **settings: Any) -> Iterator[Site]:
    """A site; nothing that the block does to tables remains."""
    given, before = {**SETTINGS, **settings}, dict(_declared)
    site, logger = Site(list_rows), logging.getLogger("cloudtask")
    with (
        override_settings(CLOUDTASK=given, ROOT_URLCONF="tests.dashboard.urls"),
        clock.virtual(),
        clock.put_back(),
        rolled_back(),
    ):
        _declared.clear()
        several = [Schedule(HOURLY, args=(t,), key=f"schedule-{t}") for t in TAGS]
        declare(tasks.due._self_definition, several)
        tasks.called.clear()
        memory.start_test()
        logger.addHandler(site.logged)
        try:
            yield site.make()
        finally:
            logger.removeHandler(site.logged)
            _declared.clear()
            _declared.update(before)
            tasks.called.clear()


@contextmanager
def rolled_back() -> Iterator[None]:
    """Nothing that the block does to tables remains."""
    block: Any = transaction.atomic()
    block._from_testcase = True  # as Django's test cases say of theirs
    with block:
        yield
        transaction.set_rollback(True)


@contextmanager
def undone(site: Site) -> Iterator[None]:
    """Nothing that the block does to tables, the queue or the site remains."""
    queue = memory.queue()
    queue.clear()
    queue.heap[:], names = site.queued
    queue.names = dict(names)
    with clock.put_back(), rolled_back():
        yield
    queue.clear()
    site.forget()
