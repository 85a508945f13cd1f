"""Converts values to JSON bytes and back, exactly: types, order, time zones and all.

See docs/reference/codec.md for what travels and how it is written. The kinds of values
are loaded when a function of the codec is first used, and not by its import.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cloudtask.codec.packing import dumps, dumps_call, register
    from cloudtask.codec.parsing import loads, loads_call
    from cloudtask.codec.trust import trusted_modules

__all__ = [
    "dumps",
    "dumps_call",
    "loads",
    "loads_call",
    "register",
    "trusted_modules",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    # Imported for what they register.
    from cloudtask.codec import classes, columns, lazy, values  # noqa: F401
    from cloudtask.codec.packing import dumps, dumps_call, register
    from cloudtask.codec.parsing import loads, loads_call
    from cloudtask.codec.trust import trusted_modules

    found = (dumps, dumps_call, loads, loads_call, register, trusted_modules)
    globals().update(zip(__all__, found, strict=True))
    return globals()[name]
