"""Seals and unseals the bytes that travel: a header, the message, the encoded call.

Layout: 2 bytes magic, version, flags, expiry (unix seconds), key id, HMAC-SHA256; then
the body: one line of JSON about the message, a newline, the payload; compressed when
that helps. The HMAC covers all but itself. Nothing of the body is read before it is
verified.
"""

from __future__ import annotations

import hmac
import struct
import zlib
from binascii import b2a_base64
from functools import lru_cache
from typing import Any

from cloudtask import codec, conf
from cloudtask.codec import shapes
from cloudtask.codec.packing import as_bytes
from cloudtask.discretion import discreet
from cloudtask.exceptions import BadSignature, PayloadError
from cloudtask.message import Message
from cloudtask.options import options_from_wire
from cloudtask.quotas import EXPANDED
from cloudtask.signing import ID_SIZE, Key, key_of

MAGIC = b"ct"
VERSION = 1
COMPRESSED = 1
VALUE = 2  # no message: a sealed value can't be delivered, nor the other way round
RESTS = 4  # a message in a table: it can't be delivered as it is, either
COMPRESS_FROM = 1024  # bytes; below it zlib rarely wins its own time back
_HEAD = struct.Struct(">2sBBI")
_MAC_SIZE = 32
_MAC_AT = _HEAD.size + ID_SIZE  # the id of the key ends the head
HEADER_SIZE = _MAC_AT + _MAC_SIZE
_TEXT = "ct:"  # what sealed text begins with, which no JSON does
_REST_AT = len(_TEXT) + 2 * ID_SIZE + 44  # behind the key's id and the signature
_REMEMBERED = 1024  # bytes or characters of a sealed value

Place = tuple[str, ...]


class NotAnEnvelope(PayloadError):
    """The bytes are not an envelope: too short, or of another kind."""


class UnknownVersion(NotAnEnvelope):
    """Another version of this library made the envelope: a deploy may be under way."""


# The functions that hold keys raise nothing: error reports show local variables.


def _signed(head: bytes, body: bytes, place: bytes = b"") -> bytes:
    """The envelope of these parts, signed with the first of the project's keys."""
    key = key_of(conf.settings().signing_secrets[0])
    head += key.id
    return b"%b%b%b" % (head, key.sign(b"%b%b%b" % (head, place, body)), body)


def _is_signed(head: bytes, mac: bytes, body: bytes, place: bytes) -> bool:
    """Whether a key of the project has signed these parts."""
    for secret in conf.settings().signing_secrets:
        key = key_of(secret)
        if head.endswith(key.id) and hmac.compare_digest(
            key.sign(b"%b%b%b" % (head, place, body)), mac
        ):
            return True
    return False


def _signature(key: Key, rest: str, place: bytes) -> str:
    data = b"%b%b%b" % (_TEXT.encode(), place, _encoded(rest))
    return key.text_id + b2a_base64(key.sign(data), newline=False).decode()


def _encoded(text: str) -> bytes:
    return text.encode(errors="surrogatepass")  # which raises nothing


def _is_text_signed(signature: str, rest: str, place: bytes) -> bool:
    for secret in conf.settings().signing_secrets:
        key = key_of(secret)
        if signature.startswith(key.text_id) and hmac.compare_digest(
            _encoded(_signature(key, rest, place)), _encoded(signature)
        ):
            return True
    return False


NEVER = 2**32 - 1  # unix seconds


@discreet
def seal(
    message: Message, *, expires: int | None = None, place: Place | None = None
) -> bytes:
    """The envelope of `message`, signed with the first of the project's keys.

    With a `place`, it rests there: it can be opened for that place only, and can't be
    delivered. It expires at `expires`, in unix seconds; by default MAX_AGE after it is
    due.
    """
    if expires is None:
        due = max(message.created, message.eta or 0.0)
        expires = int(due + conf.settings().max_age.total_seconds())
    body = b"%b\n%b" % (_about(message), message.payload)
    if place is not None:
        return _sealed(body, expires, RESTS, _bound(place))
    return _sealed(body, expires, 0)


@discreet
def seal_value(data: bytes, *, place: Place) -> bytes:
    """`data`, signed for the place where it is stored: it can be opened there only.

    A place is, for example, the table, the id of the row and the column. The signature
    does not expire.
    """
    return _sealed(data, NEVER, VALUE, _bound(place))


@discreet
def unseal_value(data: bytes, *, place: Place) -> bytes:
    """The data that `seal_value` was given for the same place.

    Raises BadSignature, whose text names the place.
    """
    try:
        if len(data) > _REMEMBERED:
            return _value_at(data, place)
        return _known_value(data, place, conf.settings().signing_secrets)
    except (PayloadError, zlib.error) as error:
        raise _misplaced(place) from error


def _value_at(data: bytes, place: Place) -> bytes:
    return _unsealed(data, 0.0, VALUE, _bound(place))


# Each delivery reads the same short values again: the options of a run, the ends of a
# shard. A signature of these keys for a place stays valid; nothing refused is kept.


@lru_cache(maxsize=1024)
def _known_value(data: bytes, place: Place, secrets: object) -> bytes:
    return _value_at(data, place)


@lru_cache(maxsize=1024)
def _known_text(sealed: str, place: Place, secrets: object) -> str | None:
    return _text_at(sealed, place)


@discreet
def seal_text(text: str | None, *, place: Place) -> str:
    """The same for a text that stays readable, or None. It is never text that the codec
    decodes."""
    rest = "" if text is None else f":{text}"
    key = key_of(conf.settings().signing_secrets[0])
    return f"{_TEXT}{_signature(key, rest, _bound(place))}{rest}"


@discreet
def unseal_text(sealed: str | None, *, place: Place) -> str | None:
    """The text, or None, that `seal_text` was given for the same place; raises
    BadSignature."""
    try:
        if sealed is None or len(sealed) > _REMEMBERED:
            return _text_at(sealed or "", place)
        return _known_text(sealed, place, conf.settings().signing_secrets)
    except PayloadError as error:
        raise _misplaced(place) from error


def _text_at(sealed: str, place: Place) -> str | None:
    start, rest = sealed[:_REST_AT], sealed[_REST_AT:]
    is_text = start.startswith(_TEXT) and rest[:1] in ("", ":")
    if is_text and _is_text_signed(start[len(_TEXT) :], rest, _bound(place)):
        return rest[1:] if rest else None
    raise NotAnEnvelope("The text is not sealed, or not for this place.")


def _bound(place: Place) -> bytes:
    """The place as bytes that no other place has; raises BadSignature if it has none.

    Parts are joined by NUL, which none of them may contain, and counted.
    """
    joined = "\0".join(place)
    if joined.count("\0") != len(place) - 1:
        raise BadSignature("No value is sealed for a place with NUL in its name.")
    return f"{len(place)}\0{joined}\0".encode()


def _misplaced(place: Place) -> BadSignature:
    return BadSignature(
        f"The stored value {' / '.join(place)} is refused: it was altered, moved from "
        "another place, or signed with a key that is not known here."
    )


def _sealed(body: bytes, expires: int, flags: int, place: bytes = b"") -> bytes:
    if len(body) >= COMPRESS_FROM:
        packed = zlib.compress(body, 6)
        if len(packed) < len(body):
            body, flags = packed, flags | COMPRESSED
    return _signed(_HEAD.pack(MAGIC, VERSION, flags, expires), body, place)


@discreet
def unseal(data: bytes, *, now: float) -> Message:
    """The message in an envelope, without its call being decoded.

    `now` is in unix seconds. Raises NotAnEnvelope when the bytes are something else,
    BadSignature when no key of the project signed them or their time is over.
    """
    return _message_in(_unsealed(data, now, 0))


@discreet
def unseal_resting(data: bytes, *, place: Place) -> Message:
    """The message that was sealed for this place, whatever its age.

    Raises BadSignature, whose text names the place, UnknownVersion, or another
    PayloadError.
    """
    try:
        body = _unsealed(data, 0.0, RESTS, _bound(place))
    except UnknownVersion:
        raise
    except (PayloadError, zlib.error) as error:
        raise _misplaced(place) from error
    return _message_in(body)


def _message_in(body: bytes) -> Message:
    about, newline, payload = body.partition(b"\n")
    if not newline:
        raise PayloadError("The envelope holds no message.")
    return _message(codec.loads(about), payload)


def _unsealed(data: bytes, now: float, kind: int, place: bytes = b"") -> bytes:
    if len(data) < HEADER_SIZE or data[:2] != MAGIC:
        raise NotAnEnvelope("The body is not a cloudtask envelope.")
    _, version, flags, expires = _HEAD.unpack_from(data)
    if version != VERSION:
        raise UnknownVersion(f"Envelope version {version} is not known here.")
    if flags & (VALUE | RESTS) != kind:
        raise NotAnEnvelope(f"An envelope of kind {flags} is not accepted here.")
    body = data[HEADER_SIZE:]
    if not _is_signed(data[:_MAC_AT], data[_MAC_AT:HEADER_SIZE], body, place):
        raise BadSignature(
            "The body was altered, or signed with a key that is neither SECRET_KEY nor "
            "in SECRET_KEY_FALLBACKS."
        )
    if now > expires:
        raise BadSignature("The envelope has expired.")
    return _expanded(body) if flags & COMPRESSED else body


def _expanded(body: bytes) -> bytes:
    unpacker = zlib.decompressobj()
    expanded = unpacker.decompress(body, EXPANDED)
    if unpacker.unconsumed_tail:
        raise PayloadError(f"The envelope expands beyond {EXPANDED} bytes.")
    return expanded


# What a message is called in an envelope, by the name of its field. The names travel:
# another name for a field changes none of them.
_ALWAYS = {
    "id": "id",
    "task": "task",
    "queue": "queue",
    "name": "name",
    "created": "created",
}
_WHEN_SET = {
    "eta": "eta",
    "attempts": "attempts",
    "sequence": "sequence",
    "stored": "stored",
    "digest": "digest",
    "named": "named",
    "outboxed": "outboxed",
    "unique": "unique",
    "carried": "carried",
    "telemetry": "telemetry",
    "chain": "chain",
    "place": "place",
    "group": "group",
    "member": "member",
    "root": "root",
    "exact": "exact",
    "occurrence": "occurrence",
    "schedule": "schedule",
    "alone": "alone",
}
_OPTIONS = "options"
_FIELD_OF = {name: field for field, name in (_ALWAYS | _WHEN_SET).items()}


def _about(message: Message) -> bytes:
    about = {name: getattr(message, field) for field, name in _ALWAYS.items()}
    for field, name in _WHEN_SET.items():
        if value := getattr(message, field):
            about[name] = value
    if not message.options.travelling:
        return as_bytes(about)  # as plain as JSON itself
    about[_OPTIONS] = message.options.travelling
    return codec.dumps(about)


def _message(about: Any, payload: bytes) -> Message:
    about = shapes.named(about)
    options = options_from_wire(shapes.named(about.pop(_OPTIONS, {})), about["queue"])
    # During a deploy a newer version may tell more than this one knows.
    known = {_FIELD_OF[name]: one for name, one in about.items() if name in _FIELD_OF}
    return Message(payload=payload, options=options, **known)
