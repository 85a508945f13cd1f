"""Callables as values that travel, for `deferred.defer`.

An import path, or an object and the name of its method; no code. Only callables of
modules in INSTALLED_APPS and CLOUDTASK["TRUSTED_MODULES"] are named, and only those are
resolved: a valid signature does not change that. Methods and callable instances count
by the module of their class; Django's own managers and querysets by the module of their
model.
"""

from __future__ import annotations

import copyreg
import functools
import inspect
from collections.abc import Callable, Iterable
from types import FunctionType, ModuleType
from typing import Any

from cloudtask import codec
from cloudtask.codec import shapes
from cloudtask.codec.trust import SETTING, defines, importable, is_trusted
from cloudtask.exceptions import PayloadError, TaskNotFound, UnsupportedValue

# An import path, or a tag and what it needs.
Form = str | list[Any]


def form_of(obj: Any) -> Form:
    """The reference to a callable that travels in a payload.

    Raises ValueError for what can't be called, UnsupportedValue for what a worker
    could not find: lambdas, closures, objects that can't be taken apart.
    """
    if not callable(obj):
        kind = type(obj).__name__  # its value may be a secret
        raise ValueError(f"defer() takes something to call, not {kind}.")
    if type(obj) is functools.partial:
        return ["partial", form_of(obj.func), list(obj.args), obj.keywords]
    owner = getattr(obj, "__self__", None)
    if owner is not None and not isinstance(owner, ModuleType) and _is_bound(obj):
        return _method(owner, obj)
    if hasattr(obj, "__qualname__"):
        return path_of(obj)
    return _value(obj)


def _is_bound(obj: Any) -> bool:
    return inspect.ismethod(obj) or inspect.isbuiltin(obj) or _is_slot(obj)


def _is_slot(obj: Any) -> bool:
    return type(obj) is type("".__len__)


def _method(owner: Any, obj: Any) -> Form:
    name = next((n for n in _names(owner, obj) if _is_there(owner, n, obj)), None)
    if name is None:
        kind = owner if isinstance(owner, type) else type(owner)
        raise UnsupportedValue(
            f"{kind.__name__}.{obj.__name__} can't travel: the class has it under "
            "another name. Move it to a function."
        )
    if isinstance(owner, type):
        return f"{path_of(owner)}.{name}"
    return ["method", _value(owner), name]


def _names(owner: Any, obj: Any) -> Iterable[str]:
    """The method's name, and the names it can have if it is private to a class."""
    kind = owner if isinstance(owner, type) else type(owner)
    yield obj.__name__
    for base in kind.__mro__:
        yield f"_{base.__name__.lstrip('_')}{obj.__name__}"


def _is_there(owner: Any, name: str, obj: Any) -> bool:
    return bool(getattr(owner, name, None) == obj)


def path_of(obj: Any) -> str:
    """The "module:qualname" where `obj` stands; raises UnsupportedValue."""
    holder = getattr(obj, "__objclass__", obj)
    module, qualname = getattr(holder, "__module__", None), str(obj.__qualname__)
    if "<lambda>" in qualname:
        raise _refusal(obj, "is a lambda, which a worker can't import. Use `def`")
    if "<locals>" in qualname:
        raise _refusal(
            obj,
            "is defined inside a function, where a worker can't import it from. Move "
            "it to module level, and pass what it closes over as arguments",
        )
    if not module or module == "__main__":
        raise _refusal(
            obj,
            "belongs to no module that a worker can import. Move it to one, such as "
            "an app's tasks.py",
        )
    _refuse_untrusted(obj, module)
    path = f"{module}:{qualname}"
    try:
        found = _at(path)
    except (ImportError, AttributeError) as error:
        raise _refusal(obj, f"is not to be found at {path}") from error
    if found is not obj:
        raise _refusal(
            obj, f"is not what stands at {path}: give it a name of its own there"
        )
    return path


def _refuse_untrusted(obj: Any, module: str) -> None:
    if not is_trusted(module):
        raise _refusal(
            obj,
            f"belongs to {module!r}, which is in no installed app. If queued tasks may "
            f"call it, add {module!r} to {SETTING}",
        )


def _refusal(obj: Any, reason: str) -> UnsupportedValue:
    # Its name, as the repr of an object may show a secret.
    kind = type(obj)
    name = getattr(obj, "__qualname__", f"an instance of {kind.__qualname__}")
    module = getattr(obj, "__module__", None) or kind.__module__
    return UnsupportedValue(f"{module}.{name} can't travel: it {reason}.")


def _at(path: str) -> Any:
    """The object at the path; raises ImportError, AttributeError, or PayloadError for
    what may not be called."""
    module, _, qualname = path.partition(":")
    if not is_trusted(module):
        why = f"{module!r} is in no installed app and not in {SETTING}"
        raise PayloadError(f"{module}.{qualname} is not called: {why}.")
    first, *names = qualname.split(".")
    found: Any = getattr(importable(module), first)
    # What a module imported from elsewhere is not the module's own.
    if not is_trusted(str(getattr(found, "__module__", None))):
        raise PayloadError(f"{path} is not called: it is defined elsewhere.")
    for name in names:
        if not isinstance(found, type) or not defines(found, name):
            raise PayloadError(f"{path} does not lead through classes to a method.")
        found = getattr(found, name)
    return found


def _value(obj: Any) -> Form:
    """An object as the codec carries it, else taken apart."""
    _refuse_untrusted(obj, _home(obj))
    if manager := _manager(obj):
        return manager
    try:
        codec.dumps(obj)
    except UnsupportedValue:
        return _object(obj)
    return ["value", obj]


def _home(instance: Any) -> str:
    """The module by which an instance counts."""
    from django.db.models import QuerySet
    from django.db.models.manager import BaseManager

    kind = type(instance)
    is_djangos = kind.__module__.startswith("django.db.models.")
    if is_djangos and issubclass(kind, QuerySet | BaseManager):
        kind = instance.model
    return str(kind.__module__)


def _manager(obj: Any) -> Form | None:
    """The form of a manager that a model names."""
    from django.db.models.manager import BaseManager

    if not isinstance(obj, BaseManager):
        return None
    name = getattr(obj, "name", None)
    if obj.model is None or obj.model._meta.managers_map.get(name) != obj:
        return None
    return ["manager", obj.model, name]


def _object(obj: Any) -> Form:
    """An object by the parts that it names for copying: how it is made, and its state.

    The parts travel as any argument does.
    """
    try:
        reduced = obj.__reduce_ex__(4)
    except TypeError as error:
        raise _refusal(obj, f"does not say what it is made of: {error}") from error
    if isinstance(reduced, str):
        raise _refusal(obj, "is known by its name alone. Defer a function that uses it")
    maker, args, *state = reduced
    parts = [*state, None, None, None][:3]
    contents = [parts[0], *(None if part is None else [*part] for part in parts[1:])]
    if maker in (copyreg.__newobj__, copyreg.__newobj_ex__):  # type: ignore[attr-defined]
        kind, *rest = args
        rest = rest if maker is copyreg.__newobj_ex__ else [rest, {}]  # type: ignore[attr-defined]
        return ["object", path_of(kind), *rest, *contents]
    return ["made", form_of(maker), list(args), *contents]


def name_of(form: Form) -> str:
    """The callable's import path for people; for an instance, that of its class."""
    if isinstance(form, str):
        return form.replace(":", ".")
    tag, first, *parts = form
    if tag == "method":
        return f"{name_of(first)}.{parts[0]}"
    if tag == "manager":
        return f"{first.__module__}.{first.__qualname__}.{parts[0]}"
    if tag == "value":
        return f"{type(first).__module__}.{type(first).__qualname__}"
    return name_of(first)


def resolve(form: Form) -> Any:
    """The callable that `form` stands for, in this process.

    Raises TaskNotFound when this version of the application does not have it.
    """
    if isinstance(form, str):
        try:
            return _at(form)
        except (ImportError, AttributeError) as error:
            raise TaskNotFound(
                f"{form.replace(':', '.')} is not known to this version: {error}. If "
                "it was renamed or removed, keep the old name until its queue is empty."
            ) from error
    tag, *parts = shapes.listed(form) or [""]
    if shapes.text(tag) not in _MAKERS:
        raise PayloadError("The payload has a callable of an unknown kind.")
    return _MAKERS[tag](*parts)


def _made_partial(function: Form, args: list[Any], keywords: dict[str, Any]) -> Any:
    return functools.partial(resolve(function), *args, **keywords)


def _made_value(value: Any) -> Any:
    home = _home(value)
    if not is_trusted(home):
        raise PayloadError(
            f"An instance of {type(value).__qualname__} is not called: {home!r} is in "
            f"no installed app and not in {SETTING}."
        )
    return value


def _made_manager(model: Any, name: str) -> Any:
    from django.db.models import Model

    if not (isinstance(model, type) and issubclass(model, Model)):
        raise PayloadError(
            "The payload has a manager of something that is not a model."
        )
    manager = model._meta.managers_map.get(shapes.text(name))
    if manager is None:
        raise TaskNotFound(f"{model._meta.label} has no manager {name!r} any more.")
    return manager


def _made_method(owner: Form, name: str) -> Any:
    if shapes.listed(owner)[0] not in ("value", "manager", "object", "made"):
        raise PayloadError(
            "The payload has a method of something that is not an instance."
        )
    instance = _made_value(resolve(owner))
    kind = type(instance)
    if inspect.getattr_static(kind, shapes.text(name), None) is None:
        raise TaskNotFound(
            f"{kind.__qualname__}.{name} is not known to this version. If it was "
            "renamed or removed, keep the old name until its queue is empty."
        )
    if not defines(kind, name):
        raise PayloadError(
            f"{kind.__qualname__}.{name} is not called: it is no method."
        )
    return getattr(instance, name)


def _made_new(path: Form, args: list[Any], kwargs: dict[str, Any], *parts: Any) -> Any:
    kind = _at(shapes.text(path))
    if not isinstance(kind, type):
        raise PayloadError(f"{path} is not a class.")
    return _filled(kind.__new__(kind, *args, **kwargs), *parts)


def _made_by(function: Form, args: list[Any], *parts: Any) -> Any:
    return _filled(resolve(function)(*args), *parts)


def _filled(obj: Any, state: Any, items: Any, pairs: Any) -> Any:
    """`obj` with what the protocol of `copy` puts into it."""
    if state is not None:
        _set_state(obj, state)
    if items is not None:
        obj.extend(items)
    for key, value in pairs or ():
        obj[key] = value
    return obj


def _set_state(obj: Any, state: Any) -> None:
    if hasattr(obj, "__setstate__"):
        obj.__setstate__(state)
        return
    attributes, slots = state if isinstance(state, tuple) else (state, None)
    for name, value in {**(attributes or {}), **(slots or {})}.items():
        object.__setattr__(obj, name, value)


_MAKERS: dict[str, Callable[..., Any]] = {
    "value": _made_value,
    "manager": _made_manager,
    "partial": _made_partial,
    "method": _made_method,
    "object": _made_new,
    "made": _made_by,
}


def check_call(obj: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Raise TypeError if it is sure that `obj` does not take these arguments."""
    signature = signature_of(obj)
    if signature is None:
        return
    try:
        signature.bind(*args, **kwargs)
    except TypeError as error:
        name = getattr(obj, "__qualname__", repr(obj))
        raise TypeError(f"{name}{signature}: {error}.") from None


def signature_of(obj: Any) -> inspect.Signature | None:
    """What `obj` takes; None for a builtin that does not tell."""
    try:
        is_function = type(obj) is FunctionType
        return _kept_signature(obj) if is_function else _signature(obj)
    except (TypeError, ValueError):
        return None


def _signature(obj: Any) -> inspect.Signature:
    # Not that of what it wraps: a decorator may take other arguments.
    return inspect.signature(obj, follow_wrapped=False)


_kept_signature = functools.lru_cache(maxsize=1024)(_signature)
