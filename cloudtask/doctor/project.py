"""Probes of the project itself: settings, tables, names, keys and the dashboard."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import timedelta
from functools import partial
from itertools import chain
from typing import Any

from django.apps import apps
from django.core.checks import ERROR, CheckMessage, Tags
from django.core.checks.registry import registry as checks
from django.db import connections
from django.db.migrations.recorder import MigrationRecorder
from django.urls import NoReverseMatch, reverse

from cloudtask import clock, conf
from cloudtask.delivering import failed as failed_tasks
from cloudtask.doctor.findings import (
    Finding,
    Probe,
    Wish,
    failed,
    ok,
    skipped,
    warning,
)
from cloudtask.exceptions import PayloadError
from cloudtask.queues import QueuesUnknown
from cloudtask.queues.listing import tasks_of, used
from cloudtask.registry import may_have
from cloudtask.runs import ENDED, RunState
from cloudtask.sending import relay, table, waiting
from cloudtask.stores import store
from cloudtask.stores.database.records import aware_at

NEAR = 2.0  # seconds by which a clock may differ: leases allow for that much
OLDEST = 20  # envelopes of each place that are opened
LISTED = 100  # tasks of each queue, and iterations, that are looked at
NOT_ENDED = [state for state in RunState if state not in ENDED]
GROUPS = 200  # groups of failed tasks that are looked through
ALONE = "cloudtask_dashboard"  # the namespace of the pages without the admin
STATIC = ("dashboard.css", "dashboard.js")


def settings(wish: Wish) -> Iterator[Finding]:
    """The system checks of the library; those of a deployment without an emulator."""
    is_local = conf.emulator_host() is not None or conf.in_tests()
    found = [*_checked("cloudtask"), *_checked(Tags.urls)]
    if is_local:
        yield skipped("Checks of a deployment are left out beside an emulator.")
    else:
        found += _checked("cloudtask", is_deployed=True)
    yield from map(_from_check, found)
    if not found:
        yield ok("CLOUDTASK can be used.")


def _checked(tag: str, *, is_deployed: bool = False, **given: Any) -> list[Any]:
    """The findings of our own checks with this tag."""
    chosen: Any = checks.deployment_checks if is_deployed else checks.registered_checks
    ours = [one for one in chosen if one.__module__.startswith("cloudtask.")]
    found: list[CheckMessage] = []
    for one in sorted(ours, key=lambda check: check.__name__):
        if tag in one.tags:
            found += one(app_configs=None, **given)
    return found


def _from_check(message: CheckMessage) -> Finding:
    grade = failed if message.level >= ERROR else warning
    what = f"{message.msg} ({message.id})"
    return grade(what, message.hint or "See `manage.py check`.")


def tables(wish: Wish) -> Iterator[Finding]:
    """The tables are there, with all migrations, in each database in use."""
    found = _checked(Tags.database, databases=list(connections))
    for message in found:
        yield failed(str(message.msg), str(message.hint))
    if not found:
        yield ok("All migrations of cloudtask are applied.")


def clocks(wish: Wish) -> Iterator[Finding]:
    """The clock of this machine beside those of the databases."""
    for alias in waiting.aliases():
        off = clock.now() - _database_time(alias)
        if abs(off) <= NEAR:
            yield ok(
                f"The clock of the database {alias!r} differs by {abs(off):.1f} s."
            )
            continue
        yield failed(
            f"The clock of this machine is {abs(off):.0f} s "
            f"{'ahead of' if off > 0 else 'behind'} that of the database {alias!r}; "
            f"leases allow {NEAR:g}.",
            "Set both by NTP: `timedatectl set-ntp true`.",
        )


def _database_time(alias: str) -> float:
    """Unix seconds by the clock of a database."""
    # Of a table that always has rows.
    rows = MigrationRecorder(connections[alias]).migration_qs
    found = rows.annotate(now=clock.database_now()).values_list("now", flat=True)[0]
    seconds: float = aware_at(found, alias).timestamp()
    return seconds


def names(wish: Wish) -> Iterator[Finding]:
    """Calls that wait or failed, of tasks that this version does not have."""
    number = 0
    for finding in chain(
        _names_of_failed(),
        _names_in_outboxes(),
        _names_in_queues(),
        _names_of_iterations(),
    ):
        number += finding.is_fault
        yield finding
    if not number:
        yield ok(
            f"Groups of failed tasks, {OLDEST} messages of each outbox, {LISTED} tasks "
            f"of each queue and {LISTED} iterations name tasks that are there, or "
            "modules that were not imported yet. Later steps of workflows were not "
            "looked at."
        )


def _names_of_failed() -> Iterator[Finding]:
    for task, number in sorted(store().failed_by_task(GROUPS).items()):
        if not may_have(task):
            yield warning(
                f"{number:,} failed calls name {task}, which this version does not "
                "have.",
                "Deploy the code that has it, or run "
                f"`manage.py cloudtask_failed discard --task {task}`.",
            )


def _names_in_outboxes() -> Iterator[Finding]:
    for alias in waiting.aliases():
        for task in sorted(waiting.tasks_in(alias, OLDEST)):
            if not may_have(task):
                yield warning(
                    f"The outbox of {alias!r} has calls of {task}, which this version "
                    "does not have.",
                    "Deploy the code that has it before the relay sends them.",
                )


def _names_in_queues() -> Iterator[Finding]:
    for queue in used():
        try:
            found = {one.task for one in tasks_of(queue, limit=LISTED)}
        except QueuesUnknown as error:
            yield skipped(f"Tasks in the queue {queue!r} were not looked at: {error}")
            continue
        for task in sorted(filter(None, found)):
            # A step of the library is registered when its room is first used.
            if not task.startswith("cloudtask.") and not may_have(task):
                yield warning(
                    f"The queue {queue!r} has calls of {task}, which this version does "
                    "not have.",
                    "Deploy the code that has it. Until then they are tried again, and "
                    "kept as failed tasks in the end.",
                )


def _names_of_iterations() -> Iterator[Finding]:
    runs = store().page_runs(states=NOT_ENDED, limit=LISTED).items
    for task in sorted({run.task for run in runs}):
        if not may_have(task):
            yield warning(
                f"An iteration that has not ended calls {task}, which this version "
                "does not have.",
                "Deploy the code that has it, or look at `manage.py "
                f"cloudtask_iterations list --task {task}` and cancel what it lists.",
            )


def keys(wish: Wish) -> Iterator[Finding]:
    """The oldest envelopes that rest somewhere can be opened."""
    opened, lost = 0, Counter[str]()
    for where, open_it in _resting():
        try:
            open_it()
            opened += 1
        except PayloadError:
            lost[where] += 1
    for where, number in lost.items():
        yield failed(
            f"{number} of the oldest messages in {where} were altered, or signed with "
            "a key that is gone.",
            "Add the former SECRET_KEY to SECRET_KEY_FALLBACKS.",
        )
    if not lost:
        yield ok(f"{opened} messages were opened: the oldest that wait or failed.")


def _resting() -> Iterator[tuple[str, Callable[[], object]]]:
    """Where messages rest, and a function that opens one."""
    for alias in waiting.aliases():
        rows = table.rows_of(alias).order_by("state", "created_at")[:OLDEST]
        for row in rows:
            yield f"the outbox of {alias!r}", partial(relay.opened, row)
    for key in store().old_failed(timedelta(0), OLDEST):
        call = store().load_failed(key)
        if call is not None:
            yield "failed tasks", partial(failed_tasks.opened, call)


def dashboard(wish: Wish) -> Iterator[Finding]:
    """The files of the pages are served, and somebody may see the pages."""
    if not _is_served():
        yield skipped("Neither the admin nor other URLs have the dashboard.")
        return
    from django.contrib.auth.models import Permission

    yield from _files()
    if Permission.objects.filter(content_type__app_label="cloudtask").exists():
        yield ok("The rights of the dashboard exist.")
    else:
        yield failed(
            "The rights of the dashboard do not exist.",
            "Run `manage.py migrate`, which makes them.",
        )


def _is_served() -> bool:
    if not apps.is_installed("django.contrib.auth"):
        return False
    for name in ("admin:cloudtask_overview_changelist", f"{ALONE}:overview_changelist"):
        with suppress(NoReverseMatch):
            return bool(reverse(name))
    return False


def _files() -> Iterator[Finding]:
    if not apps.is_installed("django.contrib.staticfiles"):
        yield skipped("django.contrib.staticfiles is not installed.")
        return
    from django.contrib.staticfiles.finders import find as find_file
    from django.contrib.staticfiles.storage import staticfiles_storage

    for name in STATIC:
        path = f"cloudtask/dashboard/{name}"
        try:
            is_there = find_file(path) is not None and staticfiles_storage.url(path)
        except ValueError:  # a storage with a manifest that does not have the file
            is_there = False
        if not is_there:
            yield failed(
                f"The file {path} is not among the static files.",
                "Run `manage.py collectstatic`.",
            )
            return
    yield ok("The files of the dashboard are there.")


PROBES = (
    Probe(id="settings", about="the settings", look=settings, seconds=10.0),
    Probe(id="tables", about="the tables", look=tables),
    Probe(id="clock", about="the clocks", look=clocks),
    Probe(id="keys", about="the signing keys", look=keys),
    Probe(id="names", about="names of tasks", look=names, seconds=15.0),
    Probe(id="dashboard", about="the dashboard", look=dashboard),
)
