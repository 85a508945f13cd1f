"""Decides which import paths in payloads may be resolved, and resolves them.

Another layer signs the bytes. This is the second line: a function or class is looked up
only in modules that the project has named, and must be what the tag says. A payload
imports nothing, except modules under CLOUDTASK["TRUSTED_MODULES"].
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import lru_cache
from importlib import import_module
from inspect import getattr_static
from types import FunctionType
from typing import Any

import wrapt
from django.apps import apps
from django.core.signals import setting_changed

from cloudtask.codec.refusals import Refusal
from cloudtask.exceptions import PayloadError

SETTING = 'CLOUDTASK["TRUSTED_MODULES"]'
# Modules of the standard library that do something when they are imported.
_NOISY = {"antigravity", "this", "idlelib", "turtledemo", "test", "lib2to3"}
_LIBRARY = {name for name in sys.stdlib_module_names if not name.startswith("_")}
_LIBRARY = _LIBRARY - _NOISY | {"django"}
_NAMED = (type, FunctionType, wrapt.FunctionWrapper)  # what has a name of its own


def trusted_modules() -> tuple[str, ...]:
    """The prefixes of CLOUDTASK["TRUSTED_MODULES"], on top of the installed apps."""
    from cloudtask import conf

    return conf.settings().trusted_modules


def _is_under(module: str, prefixes: tuple[str, ...]) -> bool:
    if is_program(module):
        return False
    return any(module == one or module.startswith(one + ".") for one in prefixes)


def is_listed(module: str) -> bool:
    """Whether the module lies under a prefix of CLOUDTASK["TRUSTED_MODULES"]."""
    return _is_under(module, trusted_modules())


def is_trusted(module: str) -> bool:
    """Whether the module lies in an installed app or under a trusted prefix."""
    return _kept_answer(module) if apps.ready else _look_up(module)


def _look_up(module: str) -> bool:
    installed = tuple(config.name for config in apps.app_configs.values())
    return _is_under(module, installed) or is_listed(module)


_kept_answer = lru_cache(maxsize=4096)(_look_up)


def _reread(*, setting: str, **kwargs: Any) -> None:
    if setting in {"CLOUDTASK", "INSTALLED_APPS"}:
        _kept_answer.cache_clear()


setting_changed.connect(_reread, dispatch_uid="cloudtask.codec.trust")


def is_library(module: str) -> bool:
    """Whether the module is Python's own or Django's: fine for verified kinds only."""
    return module.partition(".")[0] in _LIBRARY


def resolve(path: str, check: Callable[[Any], bool], *, library: bool = False) -> Any:
    """The object at "module:qualname", if it may be used and `check` accepts it.

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
    if is_program(module):
        raise Refusal(
            kind, f"{name} is in a program that no worker imports: move it to a module."
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
    """The object that the module itself defines under this name.

    Looked up without `getattr`, which may run a `__getattr__` or a descriptor.
    """
    first, *names = qualname.split(".")
    found = vars(loaded(module)).get(first)
    for name in names:
        if not isinstance(found, type):
            raise PayloadError(f"{module}:{qualname} does not lead through classes.")
        found = getattr_static(found, name, None)
    if isinstance(found, staticmethod):
        found = found.__func__
    if found is None:
        raise PayloadError(f"There is no {module}.{qualname} any more.")
    # isinstance() would ask a lazy object for its class, and so make it.
    if not issubclass(type(found), _NAMED):
        raise PayloadError(f"{module}:{qualname} is neither a function nor a class.")
    # What a module imported from elsewhere is not the module's own.
    if (found.__module__, found.__qualname__) != (module, qualname):
        raise PayloadError(f"{module}:{qualname} is defined elsewhere.")
    return found


def is_program(module: str) -> bool:
    """Whether to import the module is to run a program."""
    return "__main__" in module.split(".")


def loaded(module: str) -> Any:
    """The module, imported only if it is listed; raises PayloadError."""
    if is_program(module):
        raise PayloadError(f"{module!r} is not a module to import from.")
    if module in sys.modules:
        return sys.modules[module]
    if not is_listed(module):
        raise PayloadError(
            f"The payload names the module {module!r}, which this process has not "
            "imported. Import it where every process does, for example in tasks.py or "
            f"AppConfig.ready, or add it to {SETTING}."
        )
    try:
        return import_module(module)
    except Exception as error:
        raise PayloadError(f"The module {module!r} can't be imported.") from error


def importable(name: str) -> Any:
    """A module, which is imported if need be."""
    return sys.modules.get(name) or import_module(name)


def defines(kind: type, name: str) -> bool:
    """Whether the code of a class, or of a class that it inherits from, defines a
    method or a class of this name.

    A function that a class only keeps, as in `run = os.system`, is not its own. Nor are
    the methods of its metaclass. Raises AttributeError if there is no such name.
    """
    for base in kind.__mro__:
        if name in vars(base):
            return _is_defined_in(base, vars(base)[name])
    getattr(kind, name)
    return False


def _is_defined_in(base: type, held: Any) -> bool:
    if getattr(held, "__objclass__", None) is base:  # of a class written in C
        return callable(held)
    held = getattr(held, "__func__", held)  # what a class or static method wraps
    if not callable(held):
        return False
    module = str(getattr(held, "__module__", None))
    return is_trusted(module) or _package(module) == _package(base.__module__)


def _package(module: str) -> str:
    return module.partition(".")[0]


def is_class(value: Any) -> bool:
    return isinstance(value, type)


def is_function(value: Any) -> bool:
    # True also for a wrapt wrapper: a function may have become a task since.
    return isinstance(value, FunctionType)
