"""Which types travel, and how: a packer for each type, a decoder for each tag.

A packer turns a value into what `json` can write: plain values as they are, all others
as `{"$": [tag, content]}`. A decoder gets the content, whose parts are decoded already.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import lru_cache
from importlib import import_module
from typing import TYPE_CHECKING, Any, TypeVar

from cloudtask.codec import tags
from cloudtask.codec.shapes import text

if TYPE_CHECKING:
    from cloudtask.codec.packing import Packing

T = TypeVar("T")
Packer = Callable[[Any, "Packing"], Any]
Decoder = Callable[[Any], Any]

packers: dict[type, Packer] = {}
leaves: set[type] = {int, float}  # with nothing inside: they add no level
decoders: dict[str, Decoder] = {}
# Asked in order about a type that has no packer of its own.
families: list[Callable[[type], Packer | None]] = []

# The modules that import django.db.models.
_OF_DJANGO = ("instances", "expressions", "querysets")
_PLAIN = (type(None), bool, int, float, str, list, dict)


def leaf(
    kind: type[T],
    tag: str,
    encode: Callable[[T], Any],
    decode: Decoder,
    shape: Decoder = text,
) -> None:
    """Let a type travel whose `encode` gives plain JSON; `shape` checks that again."""
    packers[kind] = lambda value, packing: {"$": [tag, encode(value)]}
    leaves.add(kind)
    decoders[tag] = lambda content: decode(shape(content))


def register(
    type: type[T], tag: str, encode: Callable[[T], Any], decode: Callable[[Any], T]
) -> None:
    """Let values of exactly this type travel.

    `encode(value)` gives a value that travels already, for example a str or a dict;
    `decode(encoded)` makes the value again. Both sides need the registration: put it
    where every process imports it, such as `AppConfig.ready`. A subclass needs a
    registration of its own.

    Raises ValueError when the tag is taken, or when the type is written as plain JSON.
    """
    if type in _PLAIN:
        raise ValueError(f"{type.__name__} is plain JSON; it can't be registered.")
    taken = _registered.get(tag)
    if taken is None and (tag in decoders or tag in tags.OF_DJANGO):
        taken = object  # by the codec itself
    if taken not in (None, type):
        raise ValueError(f"The codec's tag {tag!r} is taken; choose another.")

    def pack(value: T, packing: Packing) -> Any:
        return {"$": [tag, packing.pack(encode(value))]}

    packers[type] = pack
    decoders[tag] = decode
    _registered[tag] = type
    packer_for.cache_clear()


_registered: dict[str, type] = {}


@lru_cache(maxsize=1024)
def packer_for(kind: type) -> Packer | None:
    """The packer of a type, also one found by what the type derives from."""
    if "django.db.models" in sys.modules:  # else no value of theirs can exist
        load_django_kinds()
    return packers[kind] if kind in packers else family_packer(kind)


def family_packer(kind: type) -> Packer | None:
    """The packer that a type has by what it derives from."""
    return next((packer for ask in families if (packer := ask(kind))), None)


def decoder_for(tag: str) -> Decoder | None:
    """The decoder of a tag; None for an unknown tag."""
    if tag in tags.OF_DJANGO:
        load_django_kinds()
    return decoders.get(tag)


@lru_cache(maxsize=1)
def load_django_kinds() -> None:
    """Register the types of django.db.models, whose import takes a while."""
    for name in _OF_DJANGO:
        import_module(f"cloudtask.codec.{name}")
