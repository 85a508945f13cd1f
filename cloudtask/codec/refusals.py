"""Builds the text of `UnsupportedValue`: why a value can't travel, and its place."""

from __future__ import annotations

import types
from typing import Any

from cloudtask.exceptions import UnsupportedValue

BUILTINS = (str, int, float, complex, bytes, list, tuple, set, frozenset, dict)
REGISTER = "register its type with cloudtask.codec.register()"
SHOWN_PLACES = 12

ADVICE: dict[type, str] = {
    types.GeneratorType: "Pass a list of its items.",
    types.MethodType: "Pass the object, and call the method in the task.",
    types.ModuleType: "Pass the module's name.",
    types.BuiltinFunctionType: "Wrap it in a function of an installed app.",
}


class Refusal(UnsupportedValue):
    """An UnsupportedValue to which each enclosing container adds its place."""

    def __init__(self, kind: type, advice: str) -> None:
        super().__init__(advice)
        self.kind = kind
        self.advice = advice
        self.places: list[str] = []

    def placed(self, root: str, of: str | None = None) -> UnsupportedValue:
        """The error for the caller, with place, task, type and advice."""
        place = root + "".join(shortened(self.places[::-1]))
        if of is not None:
            place += f" of {of}"
        prefix = f"{place}: " if place else ""
        return UnsupportedValue(
            f"{prefix}{full_name(self.kind)} can't travel. {self.advice}"
        )


def shortened(places: list[str]) -> list[str]:
    if len(places) <= SHOWN_PLACES:
        return places
    return [*places[: SHOWN_PLACES - 2], "...", places[-1]]


def full_name(kind: type) -> str:
    """A name such as `_thread.lock` or `tests.models.Book`; `function` for builtins."""
    module = getattr(kind, "__module__", "builtins")
    return (
        kind.__qualname__ if module == "builtins" else f"{module}.{kind.__qualname__}"
    )


def unsupported(kind: type) -> Refusal:
    if kind in ADVICE:
        return Refusal(kind, ADVICE[kind])
    for base in BUILTINS:
        if issubclass(kind, base):
            return Refusal(
                kind,
                f"As a {base.__name__} it would lose its type: pass "
                f"{base.__name__}(value), or {REGISTER}.",
            )
    return Refusal(kind, f"Pass its id or its data, or {REGISTER}.")


def key_place(key: Any) -> str:
    """`['items']` or `[3]`; for a key of any other type, only its type."""
    if type(key) is str and len(key) > 40:
        key = key[:37] + "..."
    if type(key) is int and key.bit_length() > 128:
        return "[int]"  # Python refuses to write thousands of digits
    shown = repr(key) if type(key) in (str, int, bool, type(None)) else None
    return f"[{shown or full_name(type(key))}]"
