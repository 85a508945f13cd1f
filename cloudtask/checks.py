"""System checks: what is wrong with the settings, and what to write instead."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import wraps
from typing import Any

from django.core.checks import CheckMessage, Error, Tags, Warning, register
from django.db import connections

from cloudtask import conf, registry
from cloudtask.exceptions import ConfigurationError
from cloudtask.stores import store
from cloudtask.targets import AppEngineTarget, HttpTarget, handler_path, target
from cloudtask.transports import transport

Check = Callable[..., Sequence[CheckMessage]]


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
    """E001: CLOUDTASK, its target, its transport and its store can be made."""
    steps: list[Callable[[], object]] = [conf.settings, target, transport, store]
    for step in steps:
        try:
            step()
        except ConfigurationError as error:
            return [Error(str(error), id="cloudtask.E001")]
    return []


@register(Tags.urls)
@_once_readable
def handler_has_a_url(app_configs: Any, **kwargs: Any) -> Sequence[CheckMessage]:
    """W001: the handler is in the URLconf."""
    try:
        handler_path("task")
    except ConfigurationError as error:
        return [Warning(str(error), id="cloudtask.W001")]
    return []


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
def databases_commit(app_configs: Any, **kwargs: Any) -> Sequence[CheckMessage]:
    """E008: what the library writes is committed when its transaction ends."""
    used = {definition.options.database for definition in registry.tasks().values()}
    used |= {"default", conf.settings().store.get("ALIAS", "default")}
    return [
        Error(
            f"DATABASES[{alias!r}]['AUTOCOMMIT'] is False: tasks that are deferred, "
            "and records of those that ran, are never committed there.",
            hint="Leave AUTOCOMMIT out, and use transaction.atomic().",
            id="cloudtask.E008",
        )
        for alias in sorted(used & set(connections.settings))
        if not connections.settings[alias].get("AUTOCOMMIT", True)
    ]


@register("cloudtask", deploy=True)
@_once_readable
def ready_for_production(app_configs: Any, **kwargs: Any) -> Sequence[CheckMessage]:
    """E002 to E007: what production needs is there, and nothing of development."""
    found = target()
    problems = list(_target_problems(found))
    if conf.emulator_host():
        names = ("CLOUD_TASKS_EMULATOR_HOST", "TASKS_EMULATOR_HOST")
        name = next(name for name in names if os.environ.get(name))
        problems.append(
            Error(f"{name} is set: tasks go to an emulator.", id="cloudtask.E004")
        )
    backend = conf.transport_options(conf.settings())["BACKEND"]
    if backend == conf.CLOUD_TRANSPORT and not conf.settings().location:
        problems.append(
            Error(
                "CLOUDTASK['LOCATION'] is not set: nothing can be enqueued.",
                hint='Set it to the region of the queues, e.g. "europe-west1".',
                id="cloudtask.E007",
            )
        )
    if backend == conf.MEMORY_TRANSPORT:
        problems.append(
            Error(
                "CLOUDTASK['TRANSPORT'] keeps tasks in memory: they never leave the "
                "process.",
                id="cloudtask.E005",
            )
        )
    return problems


def _target_problems(found: Any) -> Sequence[CheckMessage]:
    problems: list[CheckMessage] = []
    if getattr(found, "verifies", True) is False:
        problems.append(
            Error(
                "CLOUDTASK['TARGET']['VERIFY'] is False: whoever learns a sealed body "
                "can have it run again.",
                hint="Leave VERIFY out.",
                id="cloudtask.E002",
            )
        )
    if isinstance(found, HttpTarget) and found.issuer:
        problems.append(
            Error(
                "CLOUDTASK['TARGET']['ISSUER'] is set: tokens of an emulator would be "
                "believed.",
                hint="Leave ISSUER out; Google is the default.",
                id="cloudtask.E003",
            )
        )
    if isinstance(found, HttpTarget) and found.url.startswith("http://"):
        problems.append(
            Warning(
                "CLOUDTASK['TARGET']['URL'] is not https: tokens and payloads travel "
                "in the open.",
                id="cloudtask.W003",
            )
        )
    if isinstance(found, AppEngineTarget) and not found.on_app_engine:
        problems.append(
            Warning(
                "CLOUDTASK['TARGET'] is an App Engine application, and this is not App "
                "Engine: were it deployed so, it would refuse all deliveries.",
                hint="Elsewhere set TARGET to a cloudtask.targets.HttpTarget. Where "
                "only the check runs, such as in CI, silence this one.",
                id="cloudtask.W005",
            )
        )
    if isinstance(found, AppEngineTarget) and found.is_claimed:
        problems.append(
            Error(
                "CLOUDTASK['TARGET']['ON_APP_ENGINE'] is True, but this is not App "
                "Engine: anyone can send X-AppEngine-* headers here.",
                id="cloudtask.E006",
            )
        )
    return problems
