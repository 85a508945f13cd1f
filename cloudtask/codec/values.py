"""Numbers, bytes, identifiers, paths, dates and times, and collections of values."""

from __future__ import annotations

import datetime as dt
import ipaddress
import re
from base64 import b64decode, b64encode
from collections import Counter, OrderedDict, defaultdict, deque
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from pathlib import Path, PurePosixPath, PureWindowsPath
from types import FunctionType
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

from django.utils.safestring import SafeString

from cloudtask.codec import shapes, tags
from cloudtask.codec.packing import (
    Packer,
    Packing,
    decoders,
    families,
    leaf,
    packers,
    to_json,
)
from cloudtask.codec.refusals import REGISTER, Refusal
from cloudtask.codec.tags import MARK
from cloudtask.exceptions import PayloadError

# Numbers, bytes, identifiers, paths: nothing is inside.


def text_of(data: bytes | bytearray | memoryview) -> str:
    return b64encode(data).decode("ascii")


def bytes_of(text: str) -> bytes:
    return b64decode(text, validate=True)


def _float(text: str) -> float:
    if text not in ("nan", "inf", "-inf"):
        raise ValueError("a finite float is plain JSON")
    return float(text)


decoders[tags.INT] = lambda text: int(shapes.text(text), 16)
decoders[tags.FLOAT] = lambda text: _float(shapes.text(text))

leaf(bytes, tags.BYTES, text_of, bytes_of)
leaf(bytearray, tags.BYTEARRAY, text_of, lambda text: bytearray(bytes_of(text)))
# What psycopg gives for a BinaryField.
leaf(memoryview, tags.MEMORYVIEW, text_of, lambda text: memoryview(bytes_of(text)))
leaf(SafeString, tags.SAFE, str.__str__, SafeString)
# Python makes a Decimal of a str exactly, whatever the context's precision is.
leaf(Decimal, tags.DECIMAL, str, Decimal)
leaf(UUID, tags.UUID, lambda value: value.hex, UUID)
leaf(ipaddress.IPv4Address, tags.IPV4, str, ipaddress.IPv4Address)
leaf(ipaddress.IPv6Address, tags.IPV6, str, ipaddress.IPv6Address)
leaf(ipaddress.IPv4Network, tags.IPV4_NETWORK, str, ipaddress.IPv4Network)
leaf(ipaddress.IPv6Network, tags.IPV6_NETWORK, str, ipaddress.IPv6Network)
leaf(ipaddress.IPv4Interface, tags.IPV4_INTERFACE, str, ipaddress.IPv4Interface)
leaf(ipaddress.IPv6Interface, tags.IPV6_INTERFACE, str, ipaddress.IPv6Interface)
# A concrete path arrives as one of the platform where it is read.
leaf(type(Path()), tags.PATH, str, Path)
leaf(PurePosixPath, tags.POSIX_PATH, str, PurePosixPath)
leaf(PureWindowsPath, tags.WINDOWS_PATH, str, PureWindowsPath)


def _pack_complex(value: complex, packing: Packing) -> Any:
    return {MARK: [tags.COMPLEX, packing.items((value.real, value.imag))]}


def _decode_complex(content: Any) -> complex:
    real, imag = shapes.parts(content, 2)
    if type(real) is not float or type(imag) is not float:
        raise PayloadError("The payload has a complex number of other than two floats.")
    return complex(real, imag)


def _pack_fraction(value: Fraction, packing: Packing) -> Any:
    return {MARK: [tags.FRACTION, packing.items((value.numerator, value.denominator))]}


def _pack_range(value: range, packing: Packing) -> Any:
    return {MARK: [tags.RANGE, packing.items((value.start, value.stop, value.step))]}


def _pack_slice(value: slice, packing: Packing) -> Any:
    parts = (("start", value.start), ("stop", value.stop), ("step", value.step))
    return {
        MARK: [tags.SLICE, [packing.part(part, f".{name}") for name, part in parts]]
    }


packers[complex] = _pack_complex
decoders[tags.COMPLEX] = _decode_complex
packers[Fraction] = _pack_fraction
decoders[tags.FRACTION] = lambda content: Fraction(*shapes.wholes(content, 2))
packers[range] = _pack_range
decoders[tags.RANGE] = lambda content: range(*shapes.wholes(content, 3))
packers[slice] = _pack_slice
decoders[tags.SLICE] = lambda content: slice(*shapes.parts(content, 3))


# Dates, times, durations and their zones.

_UTC = dt.UTC
_ZONE_KEY = re.compile(r"[A-Za-z0-9_+-]+(/[A-Za-z0-9_+-]+)*")


def _moment_packer(tag: str) -> Packer:
    def pack(value: dt.datetime | dt.time, packing: Packing) -> Any:
        zone, fold = value.tzinfo, value.fold
        if not fold and (zone is None or (zone is _UTC and tag == tags.DATETIME)):
            return {MARK: [tag, value.isoformat()]}
        naive = value.replace(tzinfo=None, fold=0).isoformat()
        return {MARK: [tag, [naive, packing.part(zone, ".tzinfo"), fold]]}

    return pack


def _moment_decoder(kind: type[dt.datetime] | type[dt.time]) -> Callable[[Any], Any]:
    def decode(content: Any) -> Any:
        if type(content) is str:
            return kind.fromisoformat(content)
        naive, zone, fold = shapes.parts(content, 3)
        moment = kind.fromisoformat(shapes.text(naive))
        return moment.replace(tzinfo=zone, fold=shapes.whole(fold))

    return decode


def _pack_timezone(value: dt.timezone, packing: Packing) -> Any:
    if value is _UTC:
        return {MARK: [tags.TIMEZONE, []]}
    # (offset,) or (offset, name): tzname() can't tell a given name from a made one.
    offset, *name = value.__getinitargs__()  # type: ignore[attr-defined]
    return {MARK: [tags.TIMEZONE, [*_parts(offset), *name]]}


def _decode_timezone(content: Any) -> dt.timezone:
    if not shapes.listed(content):
        return _UTC
    *offset, name = [*shapes.parts(content, 3, 4), None][:4]
    delta = dt.timedelta(*shapes.wholes(offset, 3))
    return dt.timezone(delta) if name is None else dt.timezone(delta, name)


def _parts(value: dt.timedelta) -> list[int]:
    return [value.days, value.seconds, value.microseconds]


def _timedelta(parts: list[int]) -> dt.timedelta:
    return dt.timedelta(*parts)


def _pack_zone(value: ZoneInfo, packing: Packing) -> Any:
    if value.key is None:
        raise Refusal(ZoneInfo, f"It was made from a file and has no key; {REGISTER}.")
    return {MARK: [tags.ZONE, value.key]}


def _decode_zone(content: Any) -> ZoneInfo:
    if not _ZONE_KEY.fullmatch(shapes.text(content)):
        raise PayloadError("The payload has a time zone that is none.")
    return ZoneInfo(content)


packers[dt.datetime] = _moment_packer(tags.DATETIME)
decoders[tags.DATETIME] = _moment_decoder(dt.datetime)
packers[dt.time] = _moment_packer(tags.TIME)
decoders[tags.TIME] = _moment_decoder(dt.time)
leaf(dt.date, tags.DATE, dt.date.isoformat, lambda text: dt.date.fromisoformat(text))
leaf(dt.timedelta, tags.TIMEDELTA, _parts, _timedelta, lambda c: shapes.wholes(c, 3))
packers[dt.timezone] = _pack_timezone
decoders[tags.TIMEZONE] = _decode_timezone
packers[ZoneInfo] = _pack_zone
decoders[tags.ZONE] = _decode_zone

_FROZEN: dict[str, Packer] = {
    "FakeDatetime": packers[dt.datetime],
    "FakeDate": lambda value, packing: {MARK: [tags.DATE, value.isoformat()]},
}


def _frozen_by_freezegun(kind: type) -> Packer | None:
    """The packer of what a class of freezegun stands for: tests defer such dates."""
    return _FROZEN.get(kind.__name__) if kind.__module__ == "freezegun.api" else None


families.append(_frozen_by_freezegun)


# Collections.


def _pack_elements(value: set[Any] | frozenset[Any], packing: Packing) -> list[Any]:
    # Sorted, so that equal sets give equal bytes in every process.
    return sorted((packing.part(item, "<element>") for item in value), key=to_json)


packers[tuple] = lambda value, p: {MARK: [tags.TUPLE, p.items(value)]}
decoders[tags.TUPLE] = lambda items: tuple(shapes.listed(items))
packers[set] = lambda value, p: {MARK: [tags.SET, _pack_elements(value, p)]}
decoders[tags.SET] = lambda items: set(shapes.listed(items))
packers[frozenset] = lambda value, p: {MARK: [tags.FROZENSET, _pack_elements(value, p)]}
decoders[tags.FROZENSET] = lambda items: frozenset(shapes.listed(items))
decoders[tags.DICT] = lambda pairs: dict(shapes.pairs(pairs))
packers[OrderedDict] = lambda value, p: {MARK: [tags.ORDERED_DICT, p.pairs(value)]}
decoders[tags.ORDERED_DICT] = lambda pairs: OrderedDict(shapes.pairs(pairs))
packers[Counter] = lambda value, p: {MARK: [tags.COUNTER, p.pairs(value)]}
decoders[tags.COUNTER] = lambda pairs: Counter(dict(shapes.pairs(pairs)))


def _pack_defaultdict(value: defaultdict[Any, Any], packing: Packing) -> Any:
    factory = packing.part(value.default_factory, ".default_factory")
    return {MARK: [tags.DEFAULTDICT, [factory, packing.pairs(value)]]}


def _decode_defaultdict(content: Any) -> defaultdict[Any, Any]:
    factory, pairs = shapes.parts(content, 2)
    if not (factory is None or isinstance(factory, type | FunctionType)):
        raise PayloadError("The payload has a defaultdict without a proper factory.")
    return defaultdict(factory, shapes.pairs(pairs))


def _pack_deque(value: deque[Any], packing: Packing) -> Any:
    return {MARK: [tags.DEQUE, [packing.items(value), value.maxlen]]}


def _decode_deque(content: Any) -> deque[Any]:
    items, maxlen = shapes.parts(content, 2)
    return deque(shapes.listed(items), maxlen)


packers[defaultdict] = _pack_defaultdict
decoders[tags.DEFAULTDICT] = _decode_defaultdict
packers[deque] = _pack_deque
decoders[tags.DEQUE] = _decode_deque
