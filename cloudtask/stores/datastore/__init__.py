"""Keeps the store in Google Cloud Datastore: Firestore in Datastore mode."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from typing import Any

from cloudtask import conf
from cloudtask.exceptions import ConfigurationError, noted
from cloudtask.stores import Store
from cloudtask.stores.datastore.calls import DatastorePayloads, DatastoreStarts
from cloudtask.stores.datastore.client import Place
from cloudtask.stores.datastore.failed import DatastoreFailed
from cloudtask.stores.datastore.groups import DatastoreGroups
from cloudtask.stores.datastore.iterations import DatastoreIterations
from cloudtask.stores.datastore.marks import DatastoreMarks
from cloudtask.stores.datastore.results import DatastoreResults
from cloudtask.stores.datastore.schedules import DatastoreSchedules

DEFAULT_DATABASE = "(default)"
_PATTERNS = {
    "PROJECT": (r"[A-Za-z0-9:.-]+", 'a project id, e.g. "my-project"'),
    "NAMESPACE": (r"[A-Za-z0-9._-]{0,100}", "up to 100 letters, digits and . _ -"),
    "DATABASE": (
        r"\(default\)|[a-z][a-z0-9-]{2,61}[a-z0-9]",
        'a database id, e.g. "tasks", or "(default)"',
    ),
}


def _check(options: Mapping[str, Any]) -> None:
    """Raise ConfigurationError with everything that is wrong with the options."""
    problems: list[str] = []
    with noted(problems):
        conf.check_backend_options("STORE", options, dict.fromkeys(_PATTERNS, str))
    problems += [
        f"CLOUDTASK['STORE'][{name!r}] must be {of_what}, not {value!r}."
        for name, (pattern, of_what) in _PATTERNS.items()
        if isinstance(value := options.get(name), str)
        and not re.fullmatch(pattern, value)
    ]
    if problems:
        raise ConfigurationError.of(problems)


class DatastoreStore(
    DatastorePayloads,
    DatastoreFailed,
    DatastoreStarts,
    DatastoreResults,
    DatastoreGroups,
    DatastoreMarks,
    DatastoreSchedules,
    DatastoreIterations,
    Store,
):
    """Keeps state in Datastore; options PROJECT, DATABASE and NAMESPACE.

    PROJECT defaults to CLOUDTASK["PROJECT"], then to the environment's. Raises
    ConfigurationError for an option that is unknown or malformed; nothing is connected
    before the first call.
    """

    database = None  # Datastore's transactions are not those of an SQL database.

    def __init__(
        self,
        options: Mapping[str, Any],
        *,
        sleep: Callable[[float], None] = time.sleep,
        monotonic: Callable[[], float] = time.monotonic,
        begins_early: bool | None = None,
    ) -> None:
        _check(options)
        database = options.get("DATABASE")
        place = Place(
            project=options.get("PROJECT") or conf.settings().project,
            database=None if database == DEFAULT_DATABASE else database,
            namespace=options.get("NAMESPACE") or None,
        )
        super().__init__(
            place, sleep=sleep, monotonic=monotonic, begins_early=begins_early
        )
