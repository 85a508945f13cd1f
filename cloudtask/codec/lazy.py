"""Lazy values: translations stay lazy, so that they render in the worker's language."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django.urls import reverse
from django.utils import translation
from django.utils.functional import LazyObject, Promise, empty, lazy, lazystr
from django.utils.text import format_lazy
from django.utils.translation import ngettext_lazy, npgettext_lazy

from cloudtask.codec.packing import Packing
from cloudtask.codec.refusals import REGISTER, Refusal
from cloudtask.codec.registry import Packer, decoders, families


def _function_of(promise: Any) -> Callable[..., Any]:
    """The function that a lazy value calls; Promise shows it to pickle alone."""
    function: Callable[..., Any] = promise.__reduce__()[1][0]
    return function


# A payload can name no other function.
_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "gettext": translation.gettext,
    "ngettext": translation.ngettext,
    "pgettext": translation.pgettext,
    "npgettext": translation.npgettext,
    "reverse": reverse,
    "format_lazy": _function_of(format_lazy("")),
    "lazystr": _function_of(lazystr("")),
}
_NAMES = {function: name for name, function in _FUNCTIONS.items()}
# With a number that is known only when the text is formatted.
_COUNTED: dict[str, Callable[..., Any]] = {
    "ngettext": ngettext_lazy,
    "npgettext": npgettext_lazy,
}


def _pack_promise(value: Any, packing: Packing) -> Any:
    function, *arguments = value.__reduce__()[1]
    name = _NAMES.get(function)
    if name is None:
        raise Refusal(
            Promise, f"Only translations stay lazy; pass str() of it, or {REGISTER}."
        )
    if len(arguments) == 3 and isinstance(arguments[2], dict):  # a lazy number
        _, number, kwargs = arguments
        args: tuple[Any, ...] = ()
        return {"$": ["counted", [name, packing.mapping({**kwargs, "number": number})]]}
    args, kwargs = arguments[:2]
    return {"$": ["lazy", [name, packing.items(args), packing.mapping(kwargs)]]}


def _decode_lazy(payload: Any) -> Any:
    name, args, kwargs = payload
    return lazy(_FUNCTIONS[name], str)(*args, **kwargs)


def _decode_counted(payload: Any) -> Any:
    name, kwargs = payload
    return _COUNTED[name](**kwargs)


def _pack_wrapped(value: Any, packing: Packing) -> Any:
    """What a LazyObject stands for: `request.user` arrives as the user."""
    if value._wrapped is empty:
        value._setup()
    return packing.pack(value._wrapped)


def _family(kind: type) -> Packer | None:
    if issubclass(kind, Promise):
        return _pack_promise
    if issubclass(kind, LazyObject):
        return _pack_wrapped
    return None


decoders["lazy"] = _decode_lazy
decoders["counted"] = _decode_counted
families.append(_family)
