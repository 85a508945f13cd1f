"""Numbers, bytes, ids, paths: values with nothing inside."""

from __future__ import annotations

import ipaddress
from base64 import b64decode, b64encode
from decimal import Decimal
from fractions import Fraction
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any
from uuid import UUID

from django.utils.safestring import SafeString

from cloudtask.codec.packing import Packing
from cloudtask.codec.registry import decoders, packers, plain_kind


def text_of(data: bytes | bytearray | memoryview) -> str:
    return b64encode(data).decode("ascii")


def bytes_of(text: str) -> bytes:
    return b64decode(text, validate=True)


def _float(text: str) -> float:
    if text not in ("nan", "inf", "-inf"):
        raise ValueError("a finite float is plain JSON")
    return float(text)


decoders["int"] = lambda text: int(text, 16)
decoders["float"] = _float

plain_kind(bytes, "bytes", text_of, bytes_of)
plain_kind(bytearray, "bytearray", text_of, lambda text: bytearray(bytes_of(text)))
# What psycopg gives for a BinaryField.
plain_kind(memoryview, "memoryview", text_of, lambda text: memoryview(bytes_of(text)))
plain_kind(SafeString, "safe", str.__str__, SafeString)
# Python makes a Decimal of a str exactly, whatever the context's precision is.
plain_kind(Decimal, "decimal", str, Decimal)
plain_kind(UUID, "uuid", lambda value: value.hex, UUID)


def _pack_fraction(value: Fraction, packing: Packing) -> Any:
    return {"$": ["fraction", packing.items((value.numerator, value.denominator))]}


def _pack_complex(value: complex, packing: Packing) -> Any:
    return {"$": ["complex", packing.items((value.real, value.imag))]}


packers[Fraction] = _pack_fraction
decoders["fraction"] = lambda parts: Fraction(*parts)
packers[complex] = _pack_complex
decoders["complex"] = lambda parts: complex(*parts)


for kind, tag in (
    (ipaddress.IPv4Address, "ipv4"),
    (ipaddress.IPv6Address, "ipv6"),
    (ipaddress.IPv4Network, "ipv4-network"),
    (ipaddress.IPv6Network, "ipv6-network"),
    (ipaddress.IPv4Interface, "ipv4-interface"),
    (ipaddress.IPv6Interface, "ipv6-interface"),
):
    plain_kind(kind, tag, str, kind)

# A concrete path arrives as one of the platform where it is read.
plain_kind(type(Path()), "path", str, Path)
plain_kind(PurePosixPath, "posix-path", str, PurePosixPath)
plain_kind(PureWindowsPath, "windows-path", str, PureWindowsPath)


def _pack_range(value: range, packing: Packing) -> Any:
    return {"$": ["range", packing.items((value.start, value.stop, value.step))]}


def _pack_slice(value: slice, packing: Packing) -> Any:
    parts = (("start", value.start), ("stop", value.stop), ("step", value.step))
    return {"$": ["slice", [packing.part(part, f".{name}") for name, part in parts]]}


packers[range] = _pack_range
decoders["range"] = lambda parts: range(*parts)
packers[slice] = _pack_slice
decoders["slice"] = lambda parts: slice(*parts)
