"""Values that an import path names: enum members, dataclasses, namedtuples, functions,
classes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from enum import Enum, EnumMeta, Flag
from functools import cached_property, lru_cache
from inspect import getattr_static
from types import FunctionType, MemberDescriptorType
from typing import Any

from django.utils import functional

from cloudtask.codec import shapes, tags
from cloudtask.codec.packing import (
    Packer,
    Packing,
    decoders,
    families,
    family_packer,
    load_django_kinds,
    packers,
)
from cloudtask.codec.refusals import BUILTINS, REGISTER, Refusal
from cloudtask.codec.tags import MARK
from cloudtask.codec.trust import is_class, is_function, is_trusted, path_of, resolve
from cloudtask.exceptions import PayloadError

# Builtin classes may travel by themselves, for example as a defaultdict's factory.
_BUILTIN_CLASSES: dict[str, type] = {
    kind.__name__: kind
    for kind in (*BUILTINS, bool, bytearray, object, type(None), range, slice)
}
_CACHED = (cached_property, functional.cached_property)
_MISSING = dataclasses.MISSING


def _kind_of(path: Any, packer: Packer, check: Callable[[Any], bool]) -> Any:
    """The class at `path`, if `packer` writes its instances: an Enum that is also a
    dataclass gets no instances beside its members."""
    kind = resolve(shapes.text(path), check, library=True)
    if family_packer(kind) is not packer:
        raise PayloadError(f"The payload names {path!r}, which is of another kind.")
    return kind


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


# Enum members.


def _pack_enum(value: Enum, packing: Packing) -> Any:
    kind = type(value)
    path = path_of(kind, is_enum, library=True)
    if isinstance(value, Flag):
        if type(value.value) is not int:
            raise Refusal(kind, f"Its value is not an int; {REGISTER}.")
        # A combination has no name of its own.
        return {MARK: [tags.FLAG, [path, packing.pack(value.value)]]}
    if kind.__members__.get(value.name) is not value:
        raise Refusal(kind, f"It is not a declared member; {REGISTER}.")
    return {MARK: [tags.ENUM, [path, value.name]]}


def _decode_enum(content: Any) -> Any:
    path, name = shapes.texts(shapes.parts(content, 2))
    members = resolve(path, is_enum, library=True).__members__
    if name not in members:
        raise PayloadError(f"{path} has no member {name!r} any more.")
    return members[name]


def _decode_flag(content: Any) -> Any:
    path, value = shapes.parts(content, 2)
    kind = resolve(shapes.text(path), is_enum, library=True)
    if not issubclass(kind, Flag):
        raise PayloadError(f"{path} is no Flag any more.")
    return kind(shapes.whole(value))


# Dataclasses: what an instance holds is written, and written back without `__init__`.


@lru_cache(maxsize=1024)
def _fields(kind: Any) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The names of the fields that an instance holds, and of those that a property or
    another descriptor stands for."""
    names = [field.name for field in dataclasses.fields(kind)]
    held = [name for name in names if not _is_described(kind, name)]
    return tuple(held), tuple(name for name in names if name not in held)


def _is_described(kind: type, name: str) -> bool:
    found = getattr_static(kind, name, None)
    is_slot = isinstance(found, MemberDescriptorType)
    return hasattr(type(found), "__set__") and not is_slot


def _pack_dataclass(value: Any, packing: Packing) -> Any:
    kind: Any = type(value)
    path = path_of(kind, is_dataclass, library=True)
    held, described = _fields(kind)
    attributes = getattr(value, "__dict__", {})
    for name in described:
        # The descriptor is not called on arrival, so its value must be with the rest.
        if f"_{name}" not in attributes:
            raise Refusal(kind, f"Its field {name!r} is a descriptor; {REGISTER}.")
    # A field with init=False may be unset.
    fields = {name: getattr(value, name) for name in held if hasattr(value, name)}
    packed = [path, packing.attributes(fields)]
    beside = {name: attributes[name] for name in _beside(kind, attributes)}
    if beside:
        packed.append(packing.attributes(beside))
    return {MARK: [tags.DATACLASS, packed]}


def _beside(kind: type, attributes: dict[str, Any]) -> list[str]:
    """The attributes beside the fields, for example those that `__post_init__` set.

    Results of cached properties are computed again.
    """
    held, _ = _fields(kind)
    names = [
        name
        for name in attributes
        if name not in held
        and name != "__orig_class__"  # left by typing
        and not isinstance(getattr_static(kind, name, None), _CACHED)
    ]
    for name in names:
        if type(name) is not str or shapes.hides_method(kind, name, attributes[name]):
            raise Refusal(kind, f"Its attribute {name!r} hides a method; {REGISTER}.")
    return names


def _decode_dataclass(content: Any) -> Any:
    path, attributes, *rest = shapes.parts(content, 2, 3)
    kind = _kind_of(path, _pack_dataclass, is_dataclass)
    shapes.named(attributes)
    instance = object.__new__(kind)
    held, _ = _fields(kind)
    for field in dataclasses.fields(kind):
        if field.name in held and field.name in attributes:
            object.__setattr__(instance, field.name, attributes[field.name])
        elif field.name in held:
            _set_default(instance, field, path)
    if rest:
        vars(instance).update(shapes.attributes(rest[0], kind))
    return instance


def _set_default(instance: Any, field: dataclasses.Field[Any], path: str) -> None:
    """Set a field that was added since the value was encoded."""
    if field.default is not _MISSING:
        object.__setattr__(instance, field.name, field.default)
    elif field.default_factory is not _MISSING:
        object.__setattr__(instance, field.name, field.default_factory())
    elif field.init:
        raise PayloadError(f"The payload has no {field.name!r} for {path}.")


# Namedtuples.


def _pack_namedtuple(value: Any, packing: Packing) -> Any:
    kind = type(value)
    if getattr(value, "__dict__", None):
        raise Refusal(kind, f"It has attributes beside its fields; {REGISTER}.")
    parts = packing.attributes(dict(zip(kind._fields, value, strict=True)))
    if kind.__module__ == "django.db.models.utils" and kind.__name__ == "Row":
        # A row of values_list(named=True): its class is made when it is needed.
        return {MARK: [tags.ROW, parts]}
    return {
        MARK: [tags.NAMEDTUPLE, [path_of(kind, is_namedtuple, library=True), parts]]
    }


def _decode_namedtuple(content: Any) -> Any:
    path, parts = shapes.parts(content, 2)
    kind = _kind_of(path, _pack_namedtuple, is_namedtuple)
    known = {**getattr(kind, "_field_defaults", {}), **shapes.named(parts)}
    missing = [name for name in kind._fields if name not in known]
    if missing:
        raise PayloadError(f"The payload has no {missing[0]!r} for {path}.")
    return tuple.__new__(kind, [known[name] for name in kind._fields])


def _decode_row(content: Any) -> Any:
    from django.db.models.utils import create_namedtuple_class

    names = tuple(shapes.named(content))
    return tuple.__new__(create_namedtuple_class(*names), content.values())


# Functions and classes.


def _pack_function(value: Any, packing: Packing) -> Any:
    return {MARK: [tags.FUNCTION, path_of(value, is_function)]}


def _decode_function(content: Any) -> Any:
    return resolve(shapes.text(content), is_function)


def _pack_class(value: type, packing: Packing) -> Any:
    if _BUILTIN_CLASSES.get(value.__name__) is value:
        return {MARK: [tags.CLASS, value.__name__]}
    load_django_kinds()
    return {MARK: [tags.CLASS, path_of(value, is_class, library=_is_verified(value))]}


def _is_verified(value: Any) -> bool:
    return any(is_kind(value) for is_kind in verified_kinds)


def _decode_class(content: Any) -> Any:
    path = shapes.text(content)
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
decoders[tags.FUNCTION] = _decode_function
decoders[tags.CLASS] = _decode_class
decoders[tags.ENUM] = _decode_enum
decoders[tags.FLAG] = _decode_flag
decoders[tags.DATACLASS] = _decode_dataclass
decoders[tags.NAMEDTUPLE] = _decode_namedtuple
decoders[tags.ROW] = _decode_row
families.append(_family)
