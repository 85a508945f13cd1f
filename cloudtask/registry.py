"""Lists the tasks that this version of the application knows, by import path."""

from __future__ import annotations

import importlib
import inspect
import logging
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.util import find_spec
from itertools import accumulate
from typing import Any

from django.apps import apps
from django.utils.module_loading import module_has_submodule

from cloudtask.codec import shapes, tags
from cloudtask.codec.packing import register as register_type
from cloudtask.codec.trust import is_listed, is_trusted
from cloudtask.exceptions import ConfigurationError, PayloadError, TaskNotFound
from cloudtask.options import Options, nearest

logger = logging.getLogger("cloudtask")

MOST_SHAPES = 100  # of calls that a task remembers: **kwargs may have any names


@dataclass(frozen=True, slots=True, eq=False)
class Definition:
    """A function that may run later.

    `path` is module and qualified name; `binding` is "function", "method",
    "classmethod" or "staticmethod"; with a method or classmethod the subject (instance
    or class) is the first argument of every call. A step of the library restores the
    context of its run by itself.
    """

    path: str
    function: Callable[..., Any]
    options: Options
    binding: str = "function"
    is_step: bool = False
    signature: inspect.Signature = field(init=False, repr=False)
    taken: set[tuple[Any, ...]] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "signature", inspect.signature(self.function))
        object.__setattr__(self, "taken", set())

    @property
    def has_subject(self) -> bool:
        return self.binding in ("method", "classmethod")

    def check_call(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Raise TypeError unless the function takes these arguments."""
        shape = len(args), *kwargs
        if shape in self.taken:
            return  # binding, which takes a while, has said so
        try:
            self.signature.bind(*args, **kwargs)
        except TypeError as error:
            raise refused_call(self.path, self.signature, kwargs, error) from None
        if len(self.taken) < MOST_SHAPES:
            self.taken.add(shape)


def refused_call(
    name: str, signature: inspect.Signature, kwargs: dict[str, Any], error: TypeError
) -> TypeError:
    """The error for a call that `signature` does not take. It has `name`, and the
    nearest known keyword for an unknown one."""
    parameters = signature.parameters.values()
    unknown = [key for key in kwargs if key not in signature.parameters]
    if not unknown or any(p.kind is p.VAR_KEYWORD for p in parameters):
        return TypeError(f"{name}{signature}: {error}.")
    known = [p.name for p in parameters if p.kind in _BY_NAME]
    return TypeError(
        f"{name}{signature}: got an unexpected keyword argument {unknown[0]!r}; "
        f"{nearest(unknown[0], known)}"
    )


_BY_NAME = (
    inspect.Parameter.POSITIONAL_OR_KEYWORD,
    inspect.Parameter.KEYWORD_ONLY,
)
_known: dict[str, Definition] = {}
_specs: dict[str, object] = {}  # by task, of the execution of its module
_of_setup: set[str] = set()  # tasks that every process of the project knows
_findable: set[str] = set()  # tasks that were looked at and will be found


def register(definition: Definition) -> None:
    """Make a task known under its path; a reloaded module replaces its own tasks.

    Raises ConfigurationError when another function has the path.
    """
    before = _known.get(definition.path)
    spec = _spec(definition)
    is_reload = spec is not _specs.get(definition.path)
    if before is not None and not is_reload and _place(before) != _place(definition):
        raise ConfigurationError(
            f"Two tasks have the path {definition.path}: one at {_place(before)}, one "
            f"at {_place(definition)}. Rename one."
        )
    _known[definition.path] = definition
    _specs[definition.path] = spec
    if not apps.ready:
        _of_setup.add(definition.path)


def _spec(definition: Definition) -> object:
    """The spec of the task's module: each execution of a module has its own."""
    module = sys.modules.get(definition.function.__module__)
    return getattr(module, "__spec__", None)


def _place(definition: Definition) -> str:
    function = inspect.unwrap(definition.function)
    code = getattr(function, "__code__", None)
    return f"{code.co_filename}:{code.co_firstlineno}" if code else repr(function)


def tasks() -> dict[str, Definition]:
    """All known tasks by path."""
    return dict(_known)


def find(path: str) -> Definition:
    """The task of this path, importing its module if that has not happened.

    Only modules of installed apps and of CLOUDTASK["TRUSTED_MODULES"] are imported.
    Raises TaskNotFound.
    """
    return _found(path, is_trusted)


def find_loaded(path: str) -> Definition:
    """As `find`, for a path among arguments, which imports only modules that are listed
    in CLOUDTASK["TRUSTED_MODULES"]."""
    return _found(path, is_listed)


def _found(path: str, may_import: Callable[[str], bool]) -> Definition:
    definition = _known.get(path)
    if definition is None:
        _import_module_of(path, may_import)
        definition = _known.get(path) or _found_elsewhere(path, may_import)
    if definition is None:
        raise TaskNotFound(
            f"No task {path!r} is known to this version. If it was renamed or removed, "
            "keep a task of the old name until its queue is empty."
        )
    return definition


# Asked for a task that nobody registered, once its module is imported: tasks of
# another library are registered by it, not by us.
finders: list[Callable[[str], Definition | None]] = []


def _found_elsewhere(path: str, may_import: Callable[[str], bool]) -> Definition | None:
    module = path.rpartition(".")[0]
    if not (may_import(module) or (module in sys.modules and is_trusted(module))):
        return None  # a finder may import what the path names
    return next((found for finder in finders if (found := finder(path))), None)


def may_have(path: str) -> bool:
    """Whether this version has the task, or a module that is not imported may have it.

    Imports nothing, unlike `find`: the name may come from a row that anybody has
    written, and a module does what it does when it is imported.
    """
    if path in _known:
        return True
    parts = path.split(".")
    if not all(map(str.isidentifier, parts)):
        return False
    modules = [*accumulate(parts, "{}.{}".format)][:-1]
    loaded = [one for one in modules if one in sys.modules]
    unseen = modules[len(loaded) : len(loaded) + 1]
    if unseen and is_trusted(unseen[0]) and _is_there(unseen[0]):
        return True
    return _found_elsewhere(path, lambda _: False) is not None


def _is_there(module: str) -> bool:
    """Whether there is a module that is not imported; its package is, if it has one."""
    package, _, name = module.rpartition(".")
    if package:
        return module_has_submodule(sys.modules[package], name)
    return find_spec(name) is not None


def is_findable(path: str) -> bool:
    """Whether a worker finds the task: it may import its module, or has done so when
    Django was set up."""
    return path in _of_setup or is_trusted(path.rpartition(".")[0])


def check_findable(definition: Definition) -> None:
    """Look, at the first call of a task, whether a worker will find it.

    Raises ConfigurationError for a task whose module was imported under a second name,
    such as `project.app.tasks` beside `app.tasks`. Logs a warning for other tasks that
    workers may not find.
    """
    path = definition.path
    if path in _findable:
        return
    if not is_findable(path):
        _refuse_second_name(definition)
        logger.warning(
            "Task %s lies outside of the installed apps. A worker that has not "
            "imported its module does not find it. Add its package to "
            "CLOUDTASK['TRUSTED_MODULES'], or move it.",
            path,
        )
    _findable.add(path)


def _refuse_second_name(definition: Definition) -> None:
    place = _place(definition)
    for path, other in _known.items():
        if path != definition.path and _place(other) == place and is_findable(path):
            raise ConfigurationError(
                f"{definition.path} is the task {path} under a second name, since its "
                "module was imported under two names. Workers only import the "
                f"installed apps: import it as {path}."
            )


def _import_module_of(path: str, may_import: Callable[[str], bool]) -> None:
    module = path
    while "." in module:
        module = module.rpartition(".")[0]
        if module in sys.modules or not may_import(module):
            continue
        try:
            importlib.import_module(module)
        except ModuleNotFoundError as error:
            if error.name is None or not module.startswith(error.name):
                raise


@dataclass(frozen=True, slots=True)
class Subject:
    """A saved model instance as the subject of a method: read again when it runs."""

    model: type[Any]
    pk: Any
    alias: str

    def load(self) -> Any:
        """The instance as the database has it now; raises the model's DoesNotExist."""
        return self.model._base_manager.using(self.alias).get(pk=self.pk)


def _decode_subject(content: Any) -> Subject:
    from django.db.models import Model

    model, pk, alias = shapes.parts(content, 3)
    is_model = isinstance(model, type) and issubclass(model, Model)
    if not is_model or hasattr(type(pk), "resolve_expression"):
        raise PayloadError("The payload has a subject that is not a saved instance.")
    return Subject(model, pk, shapes.text(alias))


register_type(
    Subject,
    tags.SUBJECT,
    encode=lambda subject: [subject.model, subject.pk, subject.alias],
    decode=_decode_subject,
)
