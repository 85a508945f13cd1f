"""Converts values to JSON bytes, and lists the types that can travel.

A walk in Python looks at the exact type of each value, because json's own encoder takes
any subclass of str, int, list or dict for the base and writes tuples as lists. What the
walk returns has only plain values, and goes through json's C encoder in one step.

Each type has a packer and each tag a decoder. A packer turns a value into what `json`
can write: plain values as they are, all others as `{"$": [tag, content]}`. A decoder
gets the content, whose parts are decoded already.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from functools import lru_cache
from importlib import import_module
from typing import Any, TypeVar

from cloudtask.codec import tags
from cloudtask.codec.refusals import REGISTER, Refusal, key_place, unsupported
from cloudtask.codec.shapes import text
from cloudtask.codec.tags import MARK
from cloudtask.discretion import discreet
from cloudtask.exceptions import UnsupportedValue

MAX_DEPTH = 100
ATOMS = frozenset({str, bool, type(None)})
_INT64 = 1 << 63

T = TypeVar("T")
Packer = Callable[[Any, "Packing"], Any]
Decoder = Callable[[Any], Any]

packers: dict[type, Packer] = {}
leaves: set[type] = {int, float}  # with nothing inside: they add no level
decoders: dict[str, Decoder] = {}
# Asked in order about a type that has no packer of its own.
families: list[Callable[[type], Packer | None]] = []
last_families: list[Callable[[type], Packer | None]] = []  # asked after all others

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
    asked = (*families, *last_families)
    return next((packer for ask in asked if (packer := ask(kind))), None)


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


class Packing:
    """One run of the encoder: how deep it is, and whether related caches travel."""

    __slots__ = ("depth", "wipe_related_caches")

    def __init__(self, wipe_related_caches: bool) -> None:
        self.depth = 0
        self.wipe_related_caches = wipe_related_caches

    def pack(self, value: Any) -> Any:
        """What `json` writes for `value`; raises Refusal when it can't travel."""
        kind: type = type(value)
        if kind in ATOMS:
            return value
        if kind in leaves:
            return packers[kind](value, self)
        packer: Packer | None = packers.get(kind) or packer_for(kind)
        if packer is None:
            raise unsupported(kind)
        if self.depth >= MAX_DEPTH:
            raise Refusal(kind, _TOO_DEEP)
        self.depth += 1
        try:
            return packer(value, self)
        except UnsupportedValue as error:
            raise _as_refusal(error, kind) from error.__cause__
        except RecursionError:
            raise Refusal(kind, _TOO_DEEP) from None
        except Exception as error:
            # The text of the error may quote the value.
            name = type(error).__name__
            raise Refusal(kind, f"Encoding it raised {name}.") from error
        finally:
            self.depth -= 1

    def part(self, value: Any, place: str) -> Any:
        """`pack`, naming the place of `value` inside its owner when it is refused."""
        try:
            return self.pack(value)
        except Refusal as refusal:
            refusal.places.append(place)
            raise

    def items(self, values: Any) -> list[Any]:
        """The values of a sequence, packed."""
        packed: list[Any] = []
        append, pack = packed.append, self.pack
        try:
            for value in values:
                append(value if type(value) in ATOMS else pack(value))
        except Refusal as refusal:
            refusal.places.append(f"[{len(packed)}]")
            raise
        return packed

    def pairs(self, value: dict[Any, Any]) -> list[list[Any]]:
        """A dict as a list of pairs: for keys that JSON has no way to write."""
        packed: list[list[Any]] = []
        for key, item in value.items():
            packed_key = self.part(key, "<key>")
            try:
                packed.append([packed_key, self.pack(item)])
            except Refusal as refusal:
                refusal.places.append(key_place(key))
                raise
        return packed

    def mapping(self, value: dict[Any, Any]) -> dict[str, Any]:
        """A dict as a JSON object if its keys allow it, else as tagged pairs."""
        packed: dict[str, Any] = {}
        pack = self.pack
        key = None
        try:
            for key, item in value.items():
                if type(key) is not str or key == MARK:
                    break
                packed[key] = item if type(item) in ATOMS else pack(item)
            else:
                return packed
        except Refusal as refusal:
            refusal.places.append(key_place(key))
            raise
        return {MARK: [tags.DICT, self.pairs(value)]}

    def attributes(self, value: dict[str, Any]) -> Any:
        """`mapping` for the attributes of an object; errors name them as `.name`."""
        packed = {name: self.part(item, f".{name}") for name, item in value.items()}
        return escaped(packed)


def escaped(packed: dict[str, Any]) -> Any:
    """A dict of packed values as JSON; a key "$" of it is no mark of a tag."""
    if MARK not in packed:
        return packed
    return {MARK: [tags.DICT, [[name, item] for name, item in packed.items()]]}


_TOO_DEEP = (
    f"It is nested more than {MAX_DEPTH} levels deep, or contains itself: pass a "
    "flatter value."
)


def _as_refusal(error: UnsupportedValue, kind: type) -> Refusal:
    if isinstance(error, Refusal):
        return error
    return Refusal(kind, str(error) or f"Encoding it was refused; {REGISTER}.")


def _pack_int(value: int, packing: Packing) -> Any:
    # Decimal digits beyond 4300 are refused by Python itself, hex digits are not.
    return value if -_INT64 <= value < _INT64 else {MARK: [tags.INT, hex(value)]}


def _pack_float(value: float, packing: Packing) -> Any:
    return value if math.isfinite(value) else {MARK: [tags.FLOAT, repr(value)]}


packers[int] = _pack_int
packers[float] = _pack_float
packers[list] = lambda value, packing: packing.items(value)
packers[dict] = lambda value, packing: packing.mapping(value)


def _json_writer() -> Any:
    """json's C encoder, made once: `JSONEncoder.encode` makes one per call."""
    encoder = json.JSONEncoder(
        ensure_ascii=False, allow_nan=False, check_circular=False, separators=(",", ":")
    )
    make = getattr(json.encoder, "c_make_encoder", None)
    if make is None:
        return encoder.encode
    write = make(
        None, encoder.default, json.encoder.encode_basestring, None, ":", ",",
        False, False, False,
    )  # fmt: skip
    return lambda value: "".join(write(value, 0))


to_json = _json_writer()


def as_bytes(packed: Any) -> bytes:
    """JSON in UTF-8; lone surrogates pass, as `str` values may have them."""
    return to_json(packed).encode("utf-8", "surrogatepass")  # type: ignore[no-any-return]


@discreet
def dumps(
    value: Any,
    *,
    wipe_related_caches: bool = True,
    root: str = "value",
    of: str | None = None,
) -> bytes:
    """`value` as JSON in UTF-8, on one line.

    `root` starts the place that errors name, as in `value[3].lock`, and `of` names the
    task. Cached relations of model instances are left out unless `wipe_related_caches`
    is false; the instances themselves are never changed. Raises UnsupportedValue.
    """
    try:
        return as_bytes(Packing(wipe_related_caches).pack(value))
    except Refusal as refusal:
        raise refusal.placed(root, of) from refusal.__cause__


def dumps_call(
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    *,
    wipe_related_caches: bool = True,
    of: str | None = None,
) -> bytes:
    """The arguments of a call; errors name places as `args[0]`, `kwargs['items'][3]`.

    `of` names the task in errors. Raises UnsupportedValue.
    """
    packing = Packing(wipe_related_caches)
    root = "args"
    try:
        packed_args = packing.items(args)
        root = "kwargs"
        return as_bytes([packed_args, packing.mapping(kwargs)])
    except Refusal as refusal:
        raise refusal.placed(root, of) from refusal.__cause__
