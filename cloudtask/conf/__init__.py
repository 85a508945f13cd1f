"""Reads the settings: settings.CLOUDTASK, checked and frozen. No other room does."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from functools import lru_cache
from typing import Any

from django.conf import settings as django_settings
from django.core.signals import setting_changed
from django.utils.module_loading import import_string

from cloudtask import quotas
from cloudtask.addresses import Allowed, allowed
from cloudtask.conf.queues import Queue, check_type, djangae_queues, queues_of
from cloudtask.conf.tests_run import in_tests as in_tests
from cloudtask.discretion import discreet
from cloudtask.exceptions import ConfigurationError, noted
from cloudtask.options import as_timedelta, nearest

APP_ENGINE_TARGET = "cloudtask.targets.AppEngineTarget"
CLOUD_TRANSPORT = "cloudtask.transports.cloud.CloudTransport"
MEMORY_TRANSPORT = "cloudtask.transports.memory.MemoryTransport"
DATABASE_STORE = "cloudtask.stores.database.DatabaseStore"
# Django's HIDDEN_SETTINGS, as its debug page has them.
MASKED = ("api", "auth", "token", "key", "secret", "pass", "signature", "cookie")
DEFAULT_MAX_ATTEMPTS = 100  # of a queue that was made without a retry_config
LONGEST = timedelta(days=3660)  # of the durations here: ten years


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Settings:
    """settings.CLOUDTASK with its defaults; see docs/reference/settings.md."""

    project: str | None
    location: str | None
    target: Mapping[str, Any]
    queues: Mapping[str, Queue]
    store: Mapping[str, Any]
    transport: Mapping[str, Any] | None
    prefix: str | None
    trusted_modules: tuple[str, ...]
    discover: tuple[str, ...]
    max_body_size: int
    max_task_size: int
    max_age: timedelta
    retry_config: bool
    report_retries: bool
    dashboard_read_only: bool
    masked: tuple[str, ...]
    allowed_urls: tuple[Allowed, ...]
    keep_failed: timedelta
    relay_token: str | None = field(repr=False)
    carriers: tuple[str, ...]
    log_runs: bool
    lease: timedelta
    sweep_after: timedelta
    signing_secrets: tuple[str | bytes, ...] = field(repr=False)

    def max_attempts(self, queue: str) -> int:
        """The attempts of a task of `queue`, as far as the settings tell."""
        declared = self.queues.get(queue)
        return (declared and declared.max_attempts) or DEFAULT_MAX_ATTEMPTS


def _of_type(*types: type) -> Callable[[str, Any], Any]:
    def check(key: str, value: Any) -> Any:
        check_type(f"CLOUDTASK[{key!r}]", value, types)
        return value

    return check


def _id(pattern: str, of_what: str) -> Callable[[str, Any], Any]:
    """A check for a part of a queue's full name, which takes it unchanged."""

    def check(key: str, value: Any) -> Any:
        check_type(f"CLOUDTASK[{key!r}]", value, (str, type(None)))
        if value and not re.fullmatch(pattern, value):
            raise ConfigurationError(
                f"CLOUDTASK[{key!r}] must be {of_what}, not {value!r}."
            )
        return value

    return check


def _size(key: str, value: Any) -> int:
    check_type(f"CLOUDTASK[{key!r}]", value, (int,))
    if value < 1:
        raise ConfigurationError(f"CLOUDTASK[{key!r}] must be 1 or more: {value!r}.")
    return int(value)


def _backend(key: str, value: Any) -> Any:
    if value is None and key == "TRANSPORT":
        return None
    _of_type(dict)(key, value)
    if not isinstance(value.get("BACKEND"), str):
        raise ConfigurationError(
            f'CLOUDTASK[{key!r}] needs a "BACKEND": the dotted path of a class.'
        )
    return dict(value)


def _strings(key: str, value: Any) -> tuple[str, ...]:
    if not isinstance(value, list | tuple | set | frozenset) or not all(
        isinstance(one, str) for one in value
    ):
        raise ConfigurationError(
            f"CLOUDTASK[{key!r}] must be a list of str, not {value!r}."
        )
    return tuple(value)


def _addresses(key: str, value: Any) -> tuple[Allowed, ...]:
    try:
        return tuple(allowed(entry) for entry in _strings(key, value))
    except ValueError as error:
        raise ConfigurationError(
            f"Each entry of CLOUDTASK[{key!r}] {error}, for example "
            '"partner.example", "partner.example:8443" or "https://partner.example".'
        ) from None


def _secret(key: str, value: Any) -> str | None:
    """A str or None; the error does not show the value."""
    if value is None or isinstance(value, str):
        return value
    raise ConfigurationError(
        f"CLOUDTASK[{key!r}] must be str, not {type(value).__name__}."
    )


def _duration(key: str, value: Any) -> timedelta:
    try:
        duration = as_timedelta(value, f"CLOUDTASK[{key!r}]")
    except (TypeError, ValueError, OverflowError) as error:
        raise ConfigurationError(f"CLOUDTASK[{key!r}]: {error}") from error
    if not timedelta(0) < duration <= LONGEST:
        raise ConfigurationError(
            f"CLOUDTASK[{key!r}] must be above 0 and up to {LONGEST.days} days, not "
            f"{value!r}."
        )
    return duration


_KEYS: dict[str, tuple[Any, Callable[[str, Any], Any]]] = {
    "PROJECT": (None, _id(r"[A-Za-z0-9:.-]+", 'a project id, e.g. "my-project"')),
    "LOCATION": (None, _id(r"[A-Za-z0-9-]+", 'a region, e.g. "europe-west1"')),
    "TARGET": (
        None,
        lambda key, value: None if value is None else _backend(key, value),
    ),
    "QUEUES": ({}, queues_of),
    "STORE": ({"BACKEND": DATABASE_STORE}, _backend),
    "TRANSPORT": (None, _backend),
    "PREFIX": (None, _of_type(str, type(None))),
    "TRUSTED_MODULES": ((), _strings),
    "DISCOVER": ((), _strings),
    "MAX_BODY_SIZE": (quotas.BODY, _size),
    "MAX_TASK_SIZE": (quotas.INLINE, _size),
    "MAX_AGE": (timedelta(days=32), _duration),
    "RETRY_CONFIG": (True, _of_type(bool)),
    "REPORT_RETRIES": (False, _of_type(bool)),
    "DASHBOARD_READ_ONLY": (False, _of_type(bool)),
    "MASKED": (MASKED, _strings),
    "ALLOWED_URLS": ((), _addresses),
    "KEEP_FAILED": (timedelta(days=30), _duration),
    "LEASE": (timedelta(seconds=60), _duration),
    "SWEEP_AFTER": (timedelta(minutes=15), _duration),
    "RELAY_TOKEN": (None, _secret),
    "CARRIERS": ((), _strings),
    "LOG_RUNS": (True, _of_type(bool)),
}
_DJANGAE = {
    "PROJECT": "CLOUD_TASKS_PROJECT_ID",
    "LOCATION": "CLOUD_TASKS_LOCATION",
    "QUEUES": "CLOUD_TASKS_QUEUES",
}


def _given() -> dict[str, Any]:
    given = getattr(django_settings, "CLOUDTASK", {})
    if not isinstance(given, Mapping):
        raise ConfigurationError(f"CLOUDTASK must be a dict, not {given!r}.")
    older = {
        key: getattr(django_settings, name)
        for key, name in _DJANGAE.items()
        if getattr(django_settings, name, None)
    }
    if "QUEUES" in older and "QUEUES" not in given:
        older["QUEUES"] = djangae_queues(older["QUEUES"])
    return {**older, **given}


def _default_target() -> dict[str, Any]:
    return {"BACKEND": APP_ENGINE_TARGET}


def _checked(given: Mapping[str, Any]) -> dict[str, Any]:
    """The values of all keys; raises ConfigurationError with every problem."""
    problems = [
        f"CLOUDTASK has no key {key!r}; {nearest(str(key), _KEYS)}"
        for key in given
        if key not in _KEYS
    ]
    values: dict[str, Any] = {}
    for key, (default, check) in _KEYS.items():
        with noted(problems):
            values[key.lower()] = check(key, given.get(key, default))
    with noted(problems):
        values["signing_secrets"] = _signing_secrets()
    if problems:
        raise ConfigurationError.of(problems)
    return values


@lru_cache(maxsize=1)
@discreet
def settings() -> Settings:
    """The settings in force.

    Raises ConfigurationError for unknown keys and values of a wrong type, all at once.
    """
    values = _checked(_given())
    values["target"] = values["target"] or _default_target()
    return Settings(**values)


def setting(key: str) -> Any:
    """The value of one key, whatever else is wrong; raises ConfigurationError for it.

    The others must not keep Django from starting, since `manage.py check` reports them.
    """
    default, check = _KEYS[key]
    return check(key, _given().get(key, default))


def _signing_secrets() -> tuple[str | bytes, ...]:
    """SECRET_KEY, and the keys before it. With an empty one, anyone could sign."""
    found = (django_settings.SECRET_KEY, *django_settings.SECRET_KEY_FALLBACKS)
    for number, secret in enumerate(found):
        if not isinstance(secret, str | bytes) or not secret:
            where = f"SECRET_KEY_FALLBACKS[{number - 1}]" if number else "SECRET_KEY"
            raise ConfigurationError(
                f"{where} is empty or no str, so anyone could sign messages. Remove it."
            )
    return found


def _reread(*, setting: str, **kwargs: Any) -> None:
    if setting in {
        "CLOUDTASK",
        "SECRET_KEY",
        "SECRET_KEY_FALLBACKS",
        *_DJANGAE.values(),
    }:
        settings.cache_clear()


setting_changed.connect(_reread, dispatch_uid="cloudtask.conf")


def undiscovered() -> tuple[str, ...]:
    """DISCOVER, the one setting that is read while Django starts."""
    is_readable = isinstance(getattr(django_settings, "CLOUDTASK", {}), Mapping)
    found: tuple[str, ...] = setting("DISCOVER") if is_readable else ()
    return found


def root_urlconf() -> str:
    """The module with the project's URLs, or "" where there is none."""
    return str(getattr(django_settings, "ROOT_URLCONF", ""))


def x_frame_options() -> str:
    return str(django_settings.X_FRAME_OPTIONS)


def time_zone() -> str:
    return str(django_settings.TIME_ZONE or "UTC")


def language_code() -> str:
    return str(django_settings.LANGUAGE_CODE)


def hosts_are_those_of_tests() -> bool:
    """Whether a test of Django has put its only host into an empty ALLOWED_HOSTS."""
    return list(django_settings.ALLOWED_HOSTS) == ["testserver"]


def transport_options(settings: Settings) -> Mapping[str, Any]:
    """TRANSPORT; where it is not set, memory in tests and the cloud elsewhere."""
    if settings.transport is not None:
        return settings.transport
    return {"BACKEND": MEMORY_TRANSPORT if in_tests() else CLOUD_TRANSPORT}


def emulator_host() -> str | None:
    """host:port of an emulator, by Google's variable or djangae's."""
    environ = os.environ
    host = environ.get("CLOUD_TASKS_EMULATOR_HOST") or environ.get(
        "TASKS_EMULATOR_HOST"
    )
    return host.rpartition("//")[2].rstrip("/") if host else None


def backend(key: str, options: Mapping[str, Any]) -> Any:
    """The class that CLOUDTASK[key]["BACKEND"] names; raises ConfigurationError."""
    try:
        found = import_string(options["BACKEND"])
    except ImportError as error:
        raise ConfigurationError(
            f"CLOUDTASK[{key!r}]['BACKEND'] is {options['BACKEND']!r}, which can't be "
            f"imported: {error}"
        ) from error
    if not callable(found):
        raise ConfigurationError(
            f"CLOUDTASK[{key!r}]['BACKEND'] is {options['BACKEND']!r}: no class."
        )
    return found


def check_backend_options(
    key: str, options: Mapping[str, Any], known: Collection[str] | Mapping[str, type]
) -> None:
    """Raise ConfigurationError for the options that a backend does not know, or that
    have not the types that `known` may give; None is left out."""
    problems: list[str] = []
    for name, value in options.items():
        if name == "BACKEND":
            continue
        if name not in known:
            problems.append(
                f"CLOUDTASK[{key!r}] has no key {name!r}; {nearest(str(name), known)}"
            )
        elif isinstance(known, Mapping) and value is not None:
            with noted(problems):
                check_type(f"CLOUDTASK[{key!r}][{name!r}]", value, (known[name],))
    if problems:
        raise ConfigurationError.of(problems)
