"""Values to JSON bytes.

A walk in Python looks at the exact type of each value, because json's own encoder takes
any subclass of str, int, list or dict for the base and writes tuples as lists. What the
walk returns has only plain values, and goes through json's C encoder in one step.
"""

from __future__ import annotations

import json
import math
from typing import Any

from cloudtask.codec import tags
from cloudtask.codec.kinds import Packer, leaves, packer_for, packers
from cloudtask.codec.refusals import REGISTER, Refusal, key_place, unsupported
from cloudtask.codec.tags import MARK
from cloudtask.exceptions import UnsupportedValue

MAX_DEPTH = 100
ATOMS = frozenset({str, bool, type(None)})
_INT64 = 1 << 63


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
