"""Import paths in payloads: which may be resolved, and to what.

The bytes are signed by another layer. This is the second line: a function or class is
looked up only in modules that the project has named, and must be what was expected.
Nothing is imported before its module has passed.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import lru_cache
from importlib import import_module
from types import FunctionType
from typing import Any

from django.apps import apps
from django.core.signals import setting_changed

from cloudtask.codec.refusals import Refusal
from cloudtask.exceptions import PayloadError

SETTING = 'CLOUDTASK["TRUSTED_MODULES"]'
# Modules of the standard library that do something when they are imported.
_NOISY = {"antigravity", "this", "idlelib", "turtledemo", "test", "lib2to3"}
_LIBRARY = {name for name in sys.stdlib_module_names if not name.startswith("_")}
_LIBRARY = _LIBRARY - _NOISY | {"django"}


def trusted_modules() -> tuple[str, ...]:
    """The prefixes of CLOUDTASK["TRUSTED_MODULES"], on top of the installed apps."""
    from cloudtask import conf

    return conf.settings().trusted_modules


def is_trusted(module: str) -> bool:
    """Whether the module lies in an installed app or under a trusted prefix."""
    return _is_under_prefix(module) if apps.ready else _look_up(module)


def _look_up(module: str) -> bool:
    prefixes = (config.name for config in apps.app_configs.values())
    return any(
        module == prefix or module.startswith(prefix + ".")
        for prefix in (*trusted_modules(), *prefixes)
    )


_is_under_prefix = lru_cache(maxsize=4096)(_look_up)


def _reread(*, setting: str, **kwargs: Any) -> None:
    if setting in {"CLOUDTASK", "INSTALLED_APPS"}:
        _is_under_prefix.cache_clear()


setting_changed.connect(_reread, dispatch_uid="cloudtask.codec.trust")


def is_library(module: str) -> bool:
    """Whether the module is Python's own or Django's: fine for verified kinds only."""
    return module.partition(".")[0] in _LIBRARY


def resolve(path: str, check: Callable[[Any], bool], *, library: bool = False) -> Any:
    """What stands at "module:qualname", if it may be used and `check` accepts it.

    `library` also admits Python's own modules and Django's. Raises PayloadError.
    """
    module, _, qualname = path.partition(":")
    if not (is_trusted(module) or (library and is_library(module))):
        raise PayloadError(
            f"The payload names {path!r}, which is in no installed app; add its module "
            f"to {SETTING} if that is right."
        )
    found = _find(module, qualname)
    if not check(found):
        raise PayloadError(
            f"The payload names {path!r}, which is not what it should be."
        )
    return found


def path_of(value: Any, check: Callable[[Any], bool], *, library: bool = False) -> str:
    """The "module:qualname" of a function or class.

    Raises Refusal where `resolve` would raise.
    """
    kind = type(value)
    module, qualname = value.__module__, value.__qualname__
    name = f"{module}.{qualname}"
    if "<" in qualname or not module:
        raise Refusal(
            kind, f"{name} can't be imported: move it to a module's top level."
        )
    path = f"{module}:{qualname}"
    if not (is_trusted(module) or (library and is_library(module))):
        raise Refusal(
            kind, f"{name} is in no installed app: add {module!r} to {SETTING}."
        )
    try:
        found = _find(module, qualname)
    except PayloadError:
        found = None
    if found is not value or not check(found):
        raise Refusal(
            kind, f"{name} is not what stands at that path: give it a name of its own."
        )
    return path


def _find(module: str, qualname: str) -> Any:
    found = _imported(module)
    for number, name in enumerate(qualname.split(".")):
        if number and not isinstance(found, type):
            raise PayloadError(f"{module}:{qualname} does not lead through classes.")
        try:
            found = getattr(found, name)
        except AttributeError as error:
            raise PayloadError(f"There is no {module}.{qualname} any more.") from error
    # What a module imported from elsewhere is not the module's own.
    origin = getattr(found, "__module__", None), getattr(found, "__qualname__", None)
    if origin != (module, qualname):
        raise PayloadError(f"{module}:{qualname} is defined elsewhere.")
    return found


def _imported(module: str) -> Any:
    if "__main__" in module.split("."):  # it would run a program
        raise PayloadError(f"{module!r} is no module to import from.")
    if module in sys.modules:
        return sys.modules[module]
    try:
        return import_module(module)
    except Exception as error:
        raise PayloadError(f"The module {module!r} can't be imported.") from error


def is_class(value: Any) -> bool:
    return isinstance(value, type)


def is_function(value: Any) -> bool:
    # True also for a wrapt wrapper: a function may have become a task since.
    return isinstance(value, FunctionType)
