"""`ListQueuesRequest.filter`: comparisons of queue fields, joined by AND.

The proto comment promises Cloud Logging's language; this is the part that queues have a
use for: `state: PAUSED`, `name = "..."`, `rate_limits.max_dispatches_per_second >= 5`.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from typing import Any

from cloudtask.emulator import errors
from cloudtask.emulator.protos import Message, seconds_of

Matcher = Callable[[Message], bool]

_TERM = re.compile(
    r"\s*(?P<field>[A-Za-z_.]+)\s*(?P<sign><=|>=|!=|<|>|=|:)\s*"
    r'(?:"(?P<quoted>[^"]*)"|(?P<bare>[^\s"]+))\s*'
)
_SIGNS: dict[str, Callable[[Any, Any], bool]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "!=": operator.ne,
    "<": operator.lt,
    ">": operator.gt,
    "=": operator.eq,
}


def parse_filter(text: str) -> Matcher:
    """A test for queues; `ApiError` INVALID_ARGUMENT for what can't be understood."""
    if not text.strip():
        return lambda _: True
    terms = [_parse_term(term, text) for term in re.split(r"\s+AND\s+", text.strip())]
    return lambda queue: all(term(queue) for term in terms)


def _parse_term(term: str, text: str) -> Matcher:
    match = _TERM.fullmatch(term)
    if match is None:
        raise errors.invalid(f"Invalid filter: {text!r}.")
    wanted = match["quoted"] if match["quoted"] is not None else match["bare"]
    path = re.sub(r"(?<!^)(?=[A-Z])", "_", match["field"]).lower().split(".")
    return lambda queue: _compare(_value(queue, path, text), match["sign"], wanted)


def _value(message: Message, path: list[str], text: str) -> str | float:
    for step in path:
        field = message.DESCRIPTOR.fields_by_name.get(step)
        if field is None:
            raise errors.invalid(f"Invalid filter: {text!r} names no field of a queue.")
        value = getattr(message, step)
        if field.enum_type is not None:
            return str(field.enum_type.values_by_number[value].name)
        if isinstance(value, str | int | float):
            return value
        if field.message_type is None:
            break
        if field.message_type.name in ("Duration", "Timestamp"):
            return seconds_of(value)
        message = value
    raise errors.invalid(f"Invalid filter: {text!r} does not end at a plain field.")


def _compare(value: str | float, sign: str, wanted: str) -> bool:
    if isinstance(value, str):
        if sign == ":":
            return wanted.lower() in value.lower()
        return _SIGNS[sign](value, wanted)
    try:
        number = float(wanted.removesuffix("s"))
    except ValueError:
        raise errors.invalid(f"Invalid filter: {wanted!r} is not a number.") from None
    return _SIGNS["=" if sign == ":" else sign](value, number)
