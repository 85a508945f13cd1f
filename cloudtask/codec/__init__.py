"""Converts values to JSON bytes and back, exactly: types, order, time zones and all.

See docs/reference/codec.md for what travels and how it is written.
"""

from __future__ import annotations

# Imported for what they register.
from cloudtask.codec import classes, columns, lazy, values  # noqa: F401
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
