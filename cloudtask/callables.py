"""Callables as values that travel: what `deferred.defer` makes of what it is given.

An import path, or an object and the name of its method; no code. Nothing here looks at
CLOUDTASK["TRUSTED_MODULES"]: any importable callable may be named, as in App Engine's
deferred, and the signature of the envelope alone says that it was we who named it.
"""

from __future__ import annotations

import copyreg
import functools
import inspect
import sys
from collections.abc import Callable, Iterable
from importlib import import_module
from types import FunctionType, ModuleType
from typing import Any

from cloudtask import codec
from cloudtask.exceptions import TaskNotFound, UnsupportedValue

# An import path, or a tag and what it needs.
Form = str | list[Any]


def form_of(obj: Any) -> Form:
    """What stands for a callable in a payload.

    Raises ValueError for what can't be called, UnsupportedValue for what a worker
    could not find: lambdas, closures, objects that can't be taken apart.
    """
    if not callable(obj):
        raise ValueError(f"defer() takes something to call, not {obj!r}.")
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
        raise UnsupportedValue(
            f"{obj!r} can't travel: {type(owner).__name__} has it under another name. "
            "Move it to a function."
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


def _refusal(obj: Any, reason: str) -> UnsupportedValue:
    return UnsupportedValue(f"{obj!r} can't travel: it {reason}.")


def _at(path: str) -> Any:
    module, _, qualname = path.partition(":")
    found: Any = sys.modules.get(module) or import_module(module)
    for name in qualname.split("."):
        found = getattr(found, name)
    return found


def _value(obj: Any) -> Form:
    """An object as the codec carries it, else taken apart."""
    try:
        codec.dumps(obj)
    except UnsupportedValue:
        return _object(obj)
    return ["value", obj]


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
    """What people call the callable: an import path, that of its class if need be."""
    if isinstance(form, str):
        return form.replace(":", ".")
    tag, first, *parts = form
    if tag == "method":
        return f"{name_of(first)}.{parts[0]}"
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
    tag, *parts = form
    return _MAKERS[tag](*parts)


def _made_partial(function: Form, args: list[Any], keywords: dict[str, Any]) -> Any:
    return functools.partial(resolve(function), *args, **keywords)


def _made_method(owner: Form, name: str) -> Any:
    return getattr(resolve(owner), name)


def _made_new(path: Form, args: list[Any], kwargs: dict[str, Any], *parts: Any) -> Any:
    kind = resolve(path)
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
    "value": lambda value: value,
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
