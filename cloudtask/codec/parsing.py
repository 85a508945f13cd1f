"""Converts JSON bytes to values: json parses them, a hook makes the tagged values."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any, NoReturn

from cloudtask.codec.packing import MAX_DEPTH, Decoder, decoder_for, decoders
from cloudtask.codec.tags import MARK
from cloudtask.discretion import discreet
from cloudtask.exceptions import PayloadError

# A tagged value takes up to five JSON levels, a tuple three, a list one.
MAX_JSON_DEPTH = 5 * MAX_DEPTH + 10
_STRINGS = re.compile(rb'"[^"]*"')
_NOT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_NOT_QUOTES_OR_BRACKETS = _NOT_BRACKETS.replace(b'"', b"")
_SAME_BRACKETS = bytes.maketrans(b"{}", b"[]")


Decode = Callable[[str], Any]


def parser(extra: Mapping[str, Decoder]) -> Decode:
    """A JSON parser that makes the tagged values; `extra` adds tags of its own."""

    def hook(found: dict[str, Any]) -> Any:
        return _untagged(found, extra) if MARK in found else found

    return _decoding(json.JSONDecoder(object_hook=hook, parse_constant=_no_constant))


def _decoding(decoder: json.JSONDecoder) -> Decode:
    """`decoder.decode` without its search for white space, which ours has none of."""
    scan: Any = decoder.scan_once  # type: ignore[attr-defined]

    def decode(text: str) -> Any:
        try:
            value, end = scan(text, 0)
        except StopIteration:
            return decoder.decode(text)
        return value if end == len(text) else decoder.decode(text)

    return decode


def _untagged(found: dict[str, Any], extra: Mapping[str, Decoder]) -> Any:
    body = found[MARK]
    if len(found) != 1 or type(body) is not list or len(body) != 2:
        raise PayloadError("A tagged value of the payload is malformed.")
    tag, payload = body
    if type(tag) is not str:
        raise PayloadError("A tag of the payload is not a str.")
    decoder = extra.get(tag) or decoders.get(tag) or decoder_for(tag)
    if decoder is None:
        raise PayloadError(
            f"The payload has a value with the unknown tag {tag[:40]!r}. Register its "
            "type with cloudtask.codec.register() in this process too."
        )
    try:
        return decoder(payload)
    except PayloadError:
        raise
    except Exception as error:
        raise PayloadError(
            f"A {tag!r} value of the payload can't be decoded: {type(error).__name__}."
        ) from error


def _no_constant(name: str) -> NoReturn:
    raise PayloadError(f"The payload has {name}, which is not JSON.")


_decode_plain = _decoding(json.JSONDecoder(parse_constant=_no_constant))
_decode_tagged = parser({})


def parse(data: bytes, decode: Decode = _decode_tagged) -> Any:
    """The value that `data` stands for; raises PayloadError for anything else."""
    if is_too_deep(data):
        raise PayloadError(
            f"The payload is nested more than {MAX_JSON_DEPTH} levels deep."
        )
    if b"$" not in data and b"\\u0024" not in data:
        decode = _decode_plain  # spares a call for each dict
    try:
        return decode(str(data, "utf-8", "surrogatepass"))
    except RecursionError as error:
        raise PayloadError("The payload is nested too deeply.") from error
    except ValueError as error:  # also UnicodeDecodeError, json.JSONDecodeError
        raise PayloadError("The payload is not JSON in UTF-8.") from error


def is_too_deep(data: bytes) -> bool:
    """Whether brackets nest deeper than any payload of ours; strings don't count."""
    if data.count(b"[") + data.count(b"{") <= MAX_JSON_DEPTH:
        return False
    brackets = _brackets(data)
    for _ in range(MAX_JSON_DEPTH):
        inner = brackets.replace(b"[]", b"")
        if len(inner) == len(brackets):
            return False  # flat by now, or unbalanced, which the parser reports
        brackets = inner
    return b"[]" in brackets


def _brackets(data: bytes) -> bytes:
    """The brackets outside of strings, all of one shape.

    A string without brackets leaves two quotes side by side; if a quote is left when
    those are gone, some string has brackets, and only then the slow way is needed.
    """
    unescaped = data.replace(b"\\\\", b"").replace(b'\\"', b"")
    kept = unescaped.translate(_SAME_BRACKETS, _NOT_QUOTES_OR_BRACKETS)
    kept = kept.replace(b'""', b"")
    if b'"' not in kept:
        return kept
    return _STRINGS.sub(b"", unescaped).translate(_SAME_BRACKETS, _NOT_BRACKETS)


@discreet
def loads(data: bytes) -> Any:
    """The value that `dumps` was given. Raises PayloadError for any other bytes."""
    return parse(data)


def loads_call(data: bytes) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments that `dumps_call` was given. Raises PayloadError.

    They are on the first line. In a chain others follow: see `chains.steps`.
    """
    call = parse(data.partition(b"\n")[0])
    if type(call) is not list or len(call) != 2:
        raise PayloadError("The payload is not a call: it wants a list of two.")
    args, kwargs = call
    if type(args) is not list or type(kwargs) is not dict:
        raise PayloadError("The payload is not a call: it wants a list and a dict.")
    if not all(type(key) is str for key in kwargs):
        raise PayloadError("The payload is not a call: a keyword is not a str.")
    return tuple(args), kwargs
