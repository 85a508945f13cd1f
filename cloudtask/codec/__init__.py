"""Values to JSON bytes and back, exactly: types, order, time zones and all.

See docs/reference/codec.md for what travels and how it is written.
"""

from __future__ import annotations

from typing import Any

# Imported for what they register.
from cloudtask.codec import classes, lazy, values  # noqa: F401
from cloudtask.codec.kinds import register
from cloudtask.codec.packing import Packing, as_bytes
from cloudtask.codec.parsing import parse
from cloudtask.codec.refusals import Refusal
from cloudtask.codec.trust import trusted_modules
from cloudtask.discretion import discreet
from cloudtask.exceptions import PayloadError

__all__ = [
    "dumps",
    "dumps_call",
    "loads",
    "loads_call",
    "register",
    "trusted_modules",
]


@discreet
def dumps(
    value: Any, *, wipe_related_caches: bool = True, root: str = "value"
) -> bytes:
    """`value` as JSON in UTF-8, on one line.

    `root` starts the place that errors name, as in `value[3].lock`. Cached relations of
    model instances are left out unless `wipe_related_caches` is false; the instances
    themselves are never changed. Raises UnsupportedValue.
    """
    try:
        return as_bytes(Packing(wipe_related_caches).pack(value))
    except Refusal as refusal:
        raise refusal.placed(root) from refusal.__cause__


@discreet
def loads(data: bytes) -> Any:
    """The value that `dumps` was given. Raises PayloadError for any other bytes."""
    return parse(data)


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


def loads_call(data: bytes) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments that `dumps_call` was given. Raises PayloadError."""
    call = parse(data)
    if type(call) is not list or len(call) != 2:
        raise PayloadError("The payload is not a call: it wants a list of two.")
    args, kwargs = call
    if type(args) is not list or type(kwargs) is not dict:
        raise PayloadError("The payload is not a call: it wants a list and a dict.")
    if not all(type(key) is str for key in kwargs):
        raise PayloadError("The payload is not a call: a keyword is no str.")
    return tuple(args), kwargs
