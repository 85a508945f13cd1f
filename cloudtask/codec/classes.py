"""Values that an import path names: enum members, dataclasses, namedtuples, functions,
classes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from enum import Enum, EnumMeta, Flag
from functools import cached_property
from types import FunctionType
from typing import Any

from django.utils import functional

from cloudtask.codec.packing import Packing
from cloudtask.codec.refusals import BUILTINS, REGISTER, Refusal
from cloudtask.codec.registry import (
    Packer,
    decoders,
    families,
    load_django_kinds,
    packers,
)
from cloudtask.codec.trust import is_class, is_function, is_trusted, path_of, resolve
from cloudtask.exceptions import PayloadError

# Builtin classes may travel by themselves, e.g. as a defaultdict's factory.
_BUILTIN_CLASSES: dict[str, type] = {
    kind.__name__: kind
    for kind in (*BUILTINS, bool, bytearray, object, type(None), range, slice)
}
_CACHED = (cached_property, functional.cached_property)
_MISSING = dataclasses.MISSING


def is_enum(value: Any) -> bool:
    return isinstance(value, EnumMeta)


def is_dataclass(value: Any) -> bool:
    return isinstance(value, type) and dataclasses.is_dataclass(value)


def is_namedtuple(value: Any) -> bool:
    if not (isinstance(value, type) and issubclass(value, tuple)):
        return False
    names = getattr(value, "_fields", None)
    return isinstance(names, tuple) and all(type(name) is str for name in names)


# Kinds of classes that may also come from Python's own modules and from Django.
verified_kinds: list[Callable[[Any], bool]] = [is_enum, is_dataclass, is_namedtuple]


def _pack_enum(value: Enum, packing: Packing) -> Any:
    kind = type(value)
    path = path_of(kind, is_enum, library=True)
    if isinstance(value, Flag):
        # A combination has no name of its own.
        return {"$": ["flag", [path, packing.pack(value.value)]]}
    if kind.__members__.get(value.name) is not value:
        raise Refusal(kind, f"It is no declared member; {REGISTER}.")
    return {"$": ["enum", [path, value.name]]}


def _decode_enum(payload: Any) -> Any:
    path, name = payload
    members = resolve(path, is_enum, library=True).__members__
    if name not in members:
        raise PayloadError(f"{path} has no member {name!r} any more.")
    return members[name]


def _decode_flag(payload: Any) -> Any:
    path, value = payload
    kind = resolve(path, is_enum, library=True)
    if not issubclass(kind, Flag):
        raise PayloadError(f"{path} is no Flag any more.")
    return kind(value)


def _pack_dataclass(value: Any, packing: Packing) -> Any:
    kind = type(value)
    path = path_of(kind, is_dataclass, library=True)
    names = [field.name for field in dataclasses.fields(value)]
    packed = [path, _packed_attributes(value, names, packing)]
    extras = _extras(value, names)
    if extras:
        packed.append(_packed_attributes(value, extras, packing))
    return {"$": ["dataclass", packed]}


def _packed_attributes(value: Any, names: list[str], packing: Packing) -> Any:
    # A field with init=False may be unset.
    return {
        name: packing.part(getattr(value, name), f".{name}")
        for name in names
        if hasattr(value, name)
    }


def _extras(value: Any, names: list[str]) -> list[str]:
    """Attributes beside the fields, e.g. set in __post_init__; no cached results."""
    kind = type(value)
    return [
        name
        for name in getattr(value, "__dict__", ())
        if name not in names
        and not name.startswith("__")  # __orig_class__, left by typing
        and not isinstance(getattr(kind, name, None), _CACHED)
    ]


def _decode_dataclass(payload: Any) -> Any:
    path, attributes, *extras = payload
    kind = resolve(path, is_dataclass, library=True)
    instance = object.__new__(kind)
    for field in dataclasses.fields(kind):
        if field.name in attributes:
            object.__setattr__(instance, field.name, attributes[field.name])
        else:
            _set_default(instance, field, path)
    if extras:
        vars(instance).update(extras[0])
    return instance


def _set_default(instance: Any, field: dataclasses.Field[Any], path: str) -> None:
    """A field that was added since the value was encoded."""
    if field.default is not _MISSING:
        object.__setattr__(instance, field.name, field.default)
    elif field.default_factory is not _MISSING:
        object.__setattr__(instance, field.name, field.default_factory())
    elif field.init:
        raise PayloadError(f"The payload has no {field.name!r} for {path}.")


def _pack_namedtuple(value: Any, packing: Packing) -> Any:
    kind = type(value)
    if getattr(value, "__dict__", None):
        raise Refusal(kind, f"It has attributes beside its fields; {REGISTER}.")
    parts = {
        name: packing.part(item, f".{name}")
        for name, item in zip(kind._fields, value, strict=True)
    }
    if kind.__module__ == "django.db.models.utils" and kind.__name__ == "Row":
        # A row of values_list(named=True): its class is made when it is needed.
        return {"$": ["row", parts]}
    return {"$": ["namedtuple", [path_of(kind, is_namedtuple, library=True), parts]]}


def _decode_namedtuple(payload: Any) -> Any:
    path, parts = payload
    kind = resolve(path, is_namedtuple, library=True)
    known = {**getattr(kind, "_field_defaults", {}), **parts}
    missing = [name for name in kind._fields if name not in known]
    if missing:
        raise PayloadError(f"The payload has no {missing[0]!r} for {path}.")
    return tuple.__new__(kind, [known[name] for name in kind._fields])


def _decode_row(parts: dict[str, Any]) -> Any:
    from django.db.models.utils import create_namedtuple_class

    return create_namedtuple_class(*parts)(*parts.values())


def _pack_function(value: Any, packing: Packing) -> Any:
    return {"$": ["function", path_of(value, is_function)]}


def _pack_class(value: type, packing: Packing) -> Any:
    if _BUILTIN_CLASSES.get(value.__name__) is value:
        return {"$": ["class", value.__name__]}
    load_django_kinds()
    return {"$": ["class", path_of(value, is_class, library=_is_verified(value))]}


def _is_verified(value: Any) -> bool:
    return any(is_kind(value) for is_kind in verified_kinds)


def _decode_class(path: str) -> Any:
    if path in _BUILTIN_CLASSES:
        return _BUILTIN_CLASSES[path]
    if is_trusted(path.partition(":")[0]):
        return resolve(path, is_class)
    load_django_kinds()  # one of them adds to verified_kinds
    return resolve(path, _is_verified, library=True)


def _family(kind: type) -> Packer | None:
    if issubclass(kind, type):
        return _pack_class
    if issubclass(kind, Enum):
        return _pack_enum
    if is_namedtuple(kind):
        return _pack_namedtuple
    if is_dataclass(kind) and not issubclass(kind, (*BUILTINS, BaseException)):
        return _pack_dataclass
    return None


packers[FunctionType] = _pack_function
decoders["function"] = lambda path: resolve(path, is_function)
decoders["class"] = _decode_class
decoders["enum"] = _decode_enum
decoders["flag"] = _decode_flag
decoders["dataclass"] = _decode_dataclass
decoders["namedtuple"] = _decode_namedtuple
decoders["row"] = _decode_row
families.append(_family)
