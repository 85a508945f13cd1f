"""Each kind of name, collected from the code that uses it."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator, Mapping
from dataclasses import fields

from django.apps import apps
from django.core.management import get_commands
from django.db.migrations.loader import MigrationLoader
from django.db.models import Model
from django.dispatch import Signal
from django.urls import URLPattern

from cloudtask import (
    callables,
    conf,
    envelope,
    exceptions,
    runs,
    signals,
    signing,
    urls,
)
from cloudtask.codec import packing
from cloudtask.codec import tags as codec_tags
from cloudtask.conf import queues
from cloudtask.context import TaskContext
from cloudtask.iteration.description import Description
from cloudtask.message import Message
from cloudtask.models import OutboxMessage
from cloudtask.options import OPTIONS, Options
from cloudtask.registry import Definition
from cloudtask.targets import PREFIXES, delivery_of
from tests.golden import entities, words


def collected(tasks: Mapping[str, Definition]) -> dict[str, list[str]]:
    """Every name by its kind; `tasks` are those that a new process knows."""
    return {
        "tasks of the library": list(_tasks(tasks)),
        "tags of the codec": list(_tags()),
        "envelope": list(_envelope()),
        "message": list(_message()),
        "options that travel": [one.name for one in OPTIONS.values() if one.travels],
        "options": list(OPTIONS),
        "names in deferred": [n for one in OPTIONS.values() for n in one.deferred],
        "callables of deferred": list(callables._MAKERS),
        "context of a task": [field.name for field in fields(TaskContext)],
        "description of a run": [field.name for field in fields(Description)],
        "URLs": list(_urls()),
        "tables and columns": list(_columns()),
        "indexes and constraints": list(_indexes()),
        "rights": list(_rights()),
        "migrations": list(_migrations()),
        "states": list(_states()),
        "entities and properties": entities.collected(),
        "settings": list(_settings()),
        "environment variables": words.variables(),
        "management commands": list(_commands()),
        "signals": list(_signals()),
        "loggers": words.loggers(),
        "checks": words.checks(),
        "errors": list(_errors()),
        "headers": [*_headers(), *words.headers()],
    }


def _tasks(tasks: Mapping[str, Definition]) -> Iterator[str]:
    for path, definition in tasks.items():
        if definition.function.__module__.startswith("cloudtask."):
            yield path


def _tags() -> Iterator[str]:
    packing.load_django_kinds()
    yield from codec_tags.OF_DJANGO
    for tag, decode in packing.decoders.items():
        # Test modules may have registered kinds of their own.
        if (getattr(decode, "__module__", None) or "").startswith("tests."):
            continue
        yield tag


def _envelope() -> Iterator[str]:
    yield f"magic {envelope.MAGIC.decode()}"
    yield f"version {envelope.VERSION}"
    yield f"head {envelope._HEAD.format}"
    yield f"then {signing.ID_SIZE} bytes of key id, {envelope._MAC_SIZE} of HMAC"
    yield f"flag {envelope.COMPRESSED} compressed"
    yield f"flag {envelope.VALUE} value"


def _message() -> Iterator[str]:
    """The keys of a message on the wire, when all of it is there."""
    given = {field.name: 1 for field in fields(Message)}
    given |= {"payload": b"", "options": Options(max_attempts=1)}
    yield from json.loads(envelope._about(Message(**given)))


def _urls() -> Iterator[str]:
    for pattern in urls.urlpatterns:
        assert isinstance(pattern, URLPattern)
        yield f"{urls.app_name}:{pattern.name} {pattern.pattern}"


def _models() -> Iterator[type[Model]]:
    found = apps.get_app_config("cloudtask").get_models(include_auto_created=True)
    yield from (model for model in found if model._meta.managed)


def _columns() -> Iterator[str]:
    for model in _models():
        for field in model._meta.concrete_fields:
            yield f"{model._meta.db_table}.{field.column}"


def _indexes() -> Iterator[str]:
    for model in _models():
        yield from (index.name for index in model._meta.indexes)
        yield from (constraint.name for constraint in model._meta.constraints)


def _rights() -> Iterator[str]:
    for model in apps.get_app_config("cloudtask").get_models():
        yield from (codename for codename, _ in model._meta.permissions)


def _migrations() -> Iterator[str]:
    loader = MigrationLoader(None)
    yield from (name for app, name in loader.disk_migrations if app == "cloudtask")


def _states() -> Iterator[str]:
    for states in (runs.RunState, runs.ShardState, runs.FailureState):
        yield from (f"{states.__name__} {state.value}" for state in states)
    yield from (f"OutboxMessage.State {state.value}" for state in OutboxMessage.State)


def _settings() -> Iterator[str]:
    yield from (f"CLOUDTASK {key}" for key in conf._KEYS)
    yield from (f"CLOUDTASK QUEUES {key}" for key in queues._QUEUE_KEYS)
    yield from conf._DJANGAE.values()
    yield from (f"CLOUD_TASKS_QUEUES {key}" for key in queues._DJANGAE_QUEUE_KEYS)


def _commands() -> Iterator[str]:
    yield from (name for name, app in get_commands().items() if app == "cloudtask")


def _signals() -> Iterator[str]:
    for name, value in inspect.getmembers(signals):
        if isinstance(value, Signal):
            yield name


def _errors() -> Iterator[str]:
    for name, value in inspect.getmembers(exceptions, inspect.isclass):
        if value.__module__ == exceptions.__name__:
            yield name


class _Asked(Mapping[str, str]):
    """Empty headers; `names` holds those that a reader asked for."""

    def __init__(self) -> None:
        self.names: list[str] = []

    def __getitem__(self, name: str) -> str:
        self.names.append(name)
        raise KeyError(name)

    def __iter__(self) -> Iterator[str]:
        return iter(())

    def __len__(self) -> int:
        return 0


def _headers() -> Iterator[str]:
    """The headers that a delivery is read from."""
    asked = _Asked()
    delivery_of(asked)
    yield from asked.names
    yield from (prefix + "*" for prefix in PREFIXES)
