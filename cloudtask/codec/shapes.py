"""Checks the shape of a tag's content before a decoder looks inside.

The content may be any value that the codec makes: unpacking a queryset would run a
query, and `replace` of a model is a method of the project. So decoders take exactly the
type that packers write. Each function returns its argument, or raises PayloadError.
"""

from __future__ import annotations

from collections.abc import Iterator
from inspect import getattr_static
from types import FunctionType
from typing import Any, TypeVar

from cloudtask.exceptions import PayloadError

T = TypeVar("T")
_METHODS = (FunctionType, classmethod, staticmethod, property)


def _exactly(value: Any, kind: type[T]) -> T:
    if type(value) is not kind:
        found = type(value).__name__
        raise PayloadError(
            f"The payload has {found} where {kind.__name__} is expected."
        )
    exact: T = value
    return exact


def text(value: Any) -> str:
    """A str, and no lazy string or subclass."""
    return _exactly(value, str)


def text_or_none(value: Any) -> str | None:
    return None if value is None else text(value)


def whole(value: Any) -> int:
    """An int, and no bool."""
    return _exactly(value, int)


def flag(value: Any) -> bool:
    return _exactly(value, bool)


def listed(value: Any) -> list[Any]:
    """A list of any length."""
    return _exactly(value, list)


def parts(value: Any, count: int, most: int | None = None) -> list[Any]:
    """A list of `count` values, or of up to `most`."""
    found = listed(value)
    if not count <= len(found) <= (most or count):
        raise PayloadError(f"The payload has {len(found)} values where {count} belong.")
    return found


def wholes(value: Any, count: int) -> list[int]:
    """A list of `count` ints."""
    return [whole(one) for one in parts(value, count)]


def texts(value: Any) -> list[str]:
    """A list of str."""
    return [text(one) for one in listed(value)]


def pairs(value: Any) -> Iterator[tuple[Any, Any]]:
    """The items of a dict, from a list of lists of two."""
    for one in listed(value):
        key, item = parts(one, 2)
        yield key, item


def named(value: Any) -> dict[str, Any]:
    """A dict whose keys are all str."""
    found: dict[str, Any] = _exactly(value, dict)
    for name in found:
        text(name)
    return found


def attributes(value: Any, kind: type) -> dict[str, Any]:
    """The attributes that may go into the `__dict__` of an instance of `kind`.

    A special name, or something to call under the name of a method, would change what
    calls of the instance do.
    """
    found = named(value)
    for name, one in found.items():
        if hides_method(kind, name, one):
            raise PayloadError(f"The payload replaces {name!r} of {kind.__name__}.")
    return found


def hides_method(kind: type, name: str, value: Any) -> bool:
    """Whether `value` as the attribute `name` would be called in place of a method."""
    if name.startswith("__"):
        return True
    if not callable(value):
        return False
    found = getattr_static(kind, name, None)
    return isinstance(found, _METHODS) or callable(found)
