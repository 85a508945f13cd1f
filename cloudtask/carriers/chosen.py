"""The carriers that the settings name, and how the errors of telemetry are treated."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeVar

from django.core.signals import setting_changed
from django.utils.module_loading import import_string

from cloudtask import conf
from cloudtask.carriers.protocols import Carrier, Telemetry
from cloudtask.discretion import said
from cloudtask.exceptions import ConfigurationError, noted
from cloudtask.failpoints import Crashed

logger = logging.getLogger("cloudtask")

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Chosen:
    """The carriers in force, in the order of the settings."""

    project: tuple[Carrier, ...]
    telemetry: tuple[Telemetry, ...]

    @property
    def names(self) -> set[str]:
        return {one.name for one in self.project}


class State:
    """Spares callers a look at the settings: `is_off` where there are no carriers, and
    `is_unobserved` where there is no telemetry. Both are False until it is known."""

    __slots__ = ("is_off", "is_unobserved")

    def __init__(self) -> None:
        self.is_off = self.is_unobserved = False


state = State()


def _reread(*, setting: str, **kwargs: Any) -> None:
    if setting == "CLOUDTASK":
        state.is_off = state.is_unobserved = False


setting_changed.connect(_reread, dispatch_uid="cloudtask.carriers")


def chosen() -> Chosen:
    """The carriers in force; raises ConfigurationError."""
    found = _made(conf.settings())
    state.is_off = not (found.project or found.telemetry)
    state.is_unobserved = not found.telemetry
    return found


def telemetry() -> tuple[Telemetry, ...]:
    """The telemetry in force; none while the settings are wrong."""
    if state.is_unobserved:
        return ()
    try:
        return chosen().telemetry
    except ConfigurationError:
        return ()  # the call itself raises it


@lru_cache(maxsize=8)
def _made(settings: conf.Settings) -> Chosen:
    found = made(settings.carriers)
    return Chosen(
        tuple(one for one in found if not isinstance(one, Telemetry)),
        tuple(one for one in found if isinstance(one, Telemetry)),
    )


def made(paths: Iterable[str]) -> list[Any]:
    """The carriers at these paths; raises ConfigurationError with every problem."""
    found: list[Any] = []
    problems: list[str] = []
    for path in paths:
        with noted(problems):
            found.append(_carrier(path))
    names = Counter(one.name for one in found)
    problems += [
        f"CLOUDTASK['CARRIERS'] has more than one carrier named {name!r}."
        for name, count in names.items()
        if count > 1
    ]
    if problems:
        raise ConfigurationError.of(problems)
    return found


def _carrier(path: str) -> Any:
    where = f"CLOUDTASK['CARRIERS'] names {path!r}, which"
    try:
        found: Any = import_string(path)
        made = found() if isinstance(found, type) else found
    except ConfigurationError:
        raise
    except Exception as error:
        kind = type(error).__name__
        raise ConfigurationError(
            f"{where} can't be made: {kind}: {said(error)}"
        ) from error
    for method in ("capture", "restore"):
        if not callable(getattr(made, method, None)):
            raise ConfigurationError(f"{where} has no method {method}().")
    if not isinstance(getattr(made, "name", None), str) or not made.name:
        raise ConfigurationError(f"{where} has no `name`: give it a short str.")
    return made


def tried(
    one: Telemetry,
    what: str,
    call: Callable[[], T],
    passing: BaseException | None = None,
) -> T | None:
    """The result of `call`; None if it failed, which is logged. `passing` is an error
    that `call` may raise again, since it was given that error."""
    try:
        return call()
    except (KeyboardInterrupt, Crashed):
        raise
    except BaseException as error:
        if error is not passing:
            logger.warning("%s() of carrier %s failed.", what, one.name, exc_info=True)
        return None
