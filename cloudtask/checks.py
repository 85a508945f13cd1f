"""Checks the settings: each check says what is wrong, and what to write instead."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import Any
from urllib.parse import SplitResult, urlsplit

from django.core.checks import CheckMessage, Error, Tags, Warning, register
from django.db import connections
from django.db.migrations.loader import MigrationLoader

from cloudtask import carriers, conf, registry
from cloudtask.exceptions import ConfigurationError, noted
from cloudtask.options import OPTIONS, nearest
from cloudtask.reachability import grpc_knows_gevent, handler_answers
from cloudtask.schedules import declared
from cloudtask.schedules.ticking import kept_in
from cloudtask.stores import store
from cloudtask.stores.transactions import is_relational
from cloudtask.targets import AppEngineTarget, HttpTarget, handler_path, target
from cloudtask.transports import transport
from cloudtask.transports.memory import MemoryTransport

Check = Callable[..., Sequence[CheckMessage]]

DEFAULT_QUEUE = OPTIONS[
    "queue"
].default  # of tasks that may always be called by using()


def _once_readable(check: Check) -> Check:
    """Leave settings that can't be read at all to E001."""

    @wraps(check)
    def checked(app_configs: Any, **kwargs: Any) -> Sequence[CheckMessage]:
        try:
            conf.settings()
            target()
        except ConfigurationError:
            return []
        return check(app_configs, **kwargs)

    return checked


@register("cloudtask")
def settings_are_right(app_configs: Any, **kwargs: Any) -> Sequence[CheckMessage]:
    """E001: CLOUDTASK, its target, transport, store and carriers can be used."""
    problems: list[str] = []
    for step in (conf.settings, target, transport, store, carriers.chosen):
        with noted(problems):
            step()
    if problems:  # then the others may not have been looked at
        problems += _problems_beside()
    return [Error(one, id="cloudtask.E001") for one in dict.fromkeys(problems)]


def _problems_beside() -> list[str]:
    """Errors inside single settings, each read without the others."""
    problems: list[str] = []
    for key in ("TARGET", "TRANSPORT", "STORE"):
        with noted(problems):
            if options := conf.setting(key):
                conf.backend(key, options)(options)
    with noted(problems):
        carriers.made(conf.setting("CARRIERS"))
    return problems


@register(Tags.urls)
@_once_readable
def handler_has_a_url(app_configs: Any, **kwargs: Any) -> Sequence[CheckMessage]:
    """W001: the handler is in the URLconf."""
    try:
        handler_path("task")
    except ConfigurationError as error:
        return [Warning(str(error), id="cloudtask.W001")]
    return []


register(Tags.urls)(_once_readable(handler_answers))
register("cloudtask")(grpc_knows_gevent)


@register("cloudtask")
@_once_readable
def tasks_can_be_imported(app_configs: Any, **kwargs: Any) -> Sequence[CheckMessage]:
    """W002: every task lies in a module that a worker will import."""
    return [
        Warning(
            f"Task {path} lies outside of the installed apps, so a worker that has not "
            "imported its module does not find it.",
            hint="Add its package to CLOUDTASK['TRUSTED_MODULES'], or move it.",
            id="cloudtask.W002",
        )
        for path in registry.tasks()
        if not registry.is_findable(path)
    ]


@register("cloudtask")
@_once_readable
def sizes_fit(app_configs: Any, **kwargs: Any) -> Sequence[CheckMessage]:
    """W004: the handler takes what the library sends."""
    settings = conf.settings()
    if settings.max_body_size >= settings.max_task_size:
        return []
    return [
        Warning(
            f"CLOUDTASK['MAX_BODY_SIZE'] is {settings.max_body_size:,}: the handler "
            "refuses tasks that CLOUDTASK['MAX_TASK_SIZE'], "
            f"{settings.max_task_size:,}, lets out.",
            hint="Raise MAX_BODY_SIZE, or lower MAX_TASK_SIZE.",
            id="cloudtask.W004",
        )
    ]


@register("cloudtask")
@_once_readable
def queues_are_declared(app_configs: Any, **kwargs: Any) -> Sequence[CheckMessage]:
    """E009: every task's queue is in QUEUES, if anything is."""
    declared = conf.settings().queues
    return [
        Error(
            f"Task {path} goes to the queue {definition.options.queue!r}, which "
            "CLOUDTASK['QUEUES'] does not have; "
            f"{nearest(definition.options.queue, declared)}",
            hint="Add the queue to CLOUDTASK['QUEUES'], or correct the task's option.",
            id="cloudtask.E009",
        )
        for path, definition in sorted(registry.tasks().items())
        if declared and definition.options.queue not in (*declared, DEFAULT_QUEUE)
    ]


@register("cloudtask")
@_once_readable
def timeouts_fit(app_configs: Any, **kwargs: Any) -> Sequence[CheckMessage]:
    """E013: every task's timeout is one that Cloud Tasks takes for the target."""
    low, high = target().min_deadline, target().max_deadline
    return [
        Error(
            f"Task {path} has a timeout of {timeout.total_seconds():g} seconds, which "
            f"is not between {low:g} and {high:g}, the limits for this target.",
            hint="Change the timeout. Give longer work to .iterate() or to a chain.",
            id="cloudtask.E013",
        )
        for path, definition in sorted(registry.tasks().items())
        if (timeout := definition.options.timeout) is not None
        and not low <= timeout.total_seconds() <= high
    ]


@register(Tags.database)
@_once_readable
def migrations_are_applied(
    app_configs: Any, databases: Sequence[str] | None = None, **kwargs: Any
) -> Sequence[CheckMessage]:
    """W007: the tables are there, in every database that is checked and used."""
    return [
        Warning(
            f"DATABASES[{alias!r}] lacks migrations of cloudtask: {missing}.",
            hint=f"Run `manage.py migrate cloudtask --database {alias}`.",
            id="cloudtask.W007",
        )
        for alias in sorted(_used_databases() & set(databases or ()))
        if is_relational(alias)
        and (missing := _unapplied(alias))
        and "migrate" not in sys.argv[1:2]
    ]


def _unapplied(alias: str) -> str:
    loader = MigrationLoader(connections[alias])
    ours = {key for key in loader.disk_migrations if key[0] == "cloudtask"}
    return ", ".join(sorted(name for _, name in ours - {*loader.applied_migrations}))


@register("cloudtask")
@_once_readable
def databases_commit(app_configs: Any, **kwargs: Any) -> Sequence[CheckMessage]:
    """E008: what the library writes is committed when its transaction ends."""
    return [
        Error(
            f"DATABASES[{alias!r}]['AUTOCOMMIT'] is False: tasks that are deferred, "
            "and records of those that ran, are never committed there.",
            hint="Leave AUTOCOMMIT out, and use transaction.atomic().",
            id="cloudtask.E008",
        )
        for alias in sorted(_used_databases())
        if not connections.settings[alias].get("AUTOCOMMIT", True)
    ]


@register("cloudtask")
@_once_readable
def schedules_are_kept(app_configs: Any, **kwargs: Any) -> Sequence[CheckMessage]:
    """E012: each schedule has a database with tables, or the store is in Datastore."""
    problems: list[str] = []
    for one in declared().values():
        with noted(problems):
            kept_in(one.alias, f"The schedule {one.key}")
    return [Error(problem, id="cloudtask.E012") for problem in problems]


def _used_databases() -> set[str]:
    """The aliases of the databases that tasks and the store use."""
    used = {definition.options.database for definition in registry.tasks().values()}
    used |= {"default", conf.settings().store.get("ALIAS", "default")}
    return used & set(connections.settings)


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Something about the target that a deployment should not have."""

    id: str
    is_there: Callable[[Any], object]
    message: str
    hint: str | None = None
    kind: type[Error] | type[Warning] = Error


TARGET_FINDINGS = (
    Finding(
        id="cloudtask.E002",
        is_there=lambda found: getattr(found, "verifies", True) is False,
        message="CLOUDTASK['TARGET']['VERIFY'] is False: anyone who learns a sealed "
        "body can have it run again.",
        hint="Leave VERIFY out.",
    ),
    Finding(
        id="cloudtask.E003",
        is_there=lambda found: isinstance(found, HttpTarget) and found.issuer,
        message="CLOUDTASK['TARGET']['ISSUER'] is set: deliveries with tokens of an "
        "emulator would be trusted.",
        hint="Leave ISSUER out; Google is the default.",
    ),
    Finding(
        id="cloudtask.W003",
        is_there=lambda found: _url(found).scheme == "http",
        message="CLOUDTASK['TARGET']['URL'] is not https: tokens and payloads travel "
        "unencrypted.",
        kind=Warning,
    ),
    Finding(
        id="cloudtask.W005",
        is_there=lambda found: (
            isinstance(found, AppEngineTarget) and not found.on_app_engine
        ),
        message="CLOUDTASK['TARGET'] is an App Engine application, and this is not App "
        "Engine. If this is deployed elsewhere, it will refuse all deliveries.",
        hint="Elsewhere set TARGET to a cloudtask.targets.HttpTarget. Where only the "
        "check runs, such as in CI, silence this one.",
        kind=Warning,
    ),
    Finding(
        id="cloudtask.E006",
        is_there=lambda found: isinstance(found, AppEngineTarget) and found.is_claimed,
        message="CLOUDTASK['TARGET']['ON_APP_ENGINE'] is True, but this is not App "
        "Engine: anyone can send X-AppEngine-* headers here.",
    ),
)


def _url(found: Any) -> SplitResult:
    return urlsplit(found.url if isinstance(found, HttpTarget) else "")


@register("cloudtask")
@_once_readable
def url_has_no_path(app_configs: Any, **kwargs: Any) -> Sequence[CheckMessage]:
    """W006: the target's URL is scheme and host."""
    found = target()
    if not isinstance(found, HttpTarget) or not (path := _url(found).path):
        return []
    return [
        Warning(
            f"CLOUDTASK['TARGET']['URL'] has the path {path!r}, which comes before the "
            f"path of the handler: tasks are delivered to {found.url}/...",
            hint="Leave the path out, unless a proxy removes it.",
            id="cloudtask.W006",
        )
    ]


@register("cloudtask", deploy=True)
@_once_readable
def target_is_for_production(app_configs: Any, **kwargs: Any) -> Sequence[CheckMessage]:
    """E002, E003, E006, W003, W005: the target trusts nobody but Google."""
    found = target()
    return [
        finding.kind(finding.message, hint=finding.hint, id=finding.id)
        for finding in TARGET_FINDINGS
        if finding.is_there(found)
    ]


# Variables of development and tests: what each does, and the error.
_VARIABLES = {
    "CLOUD_TASKS_EMULATOR_HOST": ("tasks go to an emulator", "cloudtask.E004"),
    "TASKS_EMULATOR_HOST": ("tasks go to an emulator", "cloudtask.E004"),
    "DATASTORE_EMULATOR_HOST": ("Datastore is an emulator", "cloudtask.E004"),
    "CLOUDTASK_FAILPOINT": ("the process kills itself there", "cloudtask.E011"),
}


@register("cloudtask", deploy=True)
def environment_is_of_production(
    app_configs: Any, **kwargs: Any
) -> Sequence[CheckMessage]:
    """E004, E011: nothing in the environment is of development or of tests."""
    return [
        Error(f"{name} is set: {what}.", hint=f"Unset {name}.", id=check_id)
        for name, (what, check_id) in _VARIABLES.items()
        if os.environ.get(name)
    ]


@register("cloudtask", deploy=True)
@_once_readable
def transport_is_for_production(
    app_configs: Any, **kwargs: Any
) -> Sequence[CheckMessage]:
    """E005, E007: tasks leave the process, and their queues can be named."""
    backend = conf.transport_options(conf.settings())["BACKEND"]
    if isinstance(transport(), MemoryTransport):
        return [
            Error(
                "CLOUDTASK['TRANSPORT'] keeps tasks in memory: they never leave the "
                "process.",
                id="cloudtask.E005",
            )
        ]
    if backend != conf.CLOUD_TRANSPORT or conf.settings().location:
        return []
    return [
        Error(
            "CLOUDTASK['LOCATION'] is not set: nothing can be enqueued.",
            hint='Set it to the region of the queues, e.g. "europe-west1".',
            id="cloudtask.E007",
        )
    ]
