"""Lazy values: translations stay lazy, so that they render in the worker's language."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

from django.utils.functional import LazyObject, Promise, empty, lazy, lazystr

from cloudtask.codec.packing import Packing
from cloudtask.codec.refusals import REGISTER, Refusal
from cloudtask.codec.registry import Packer, decoders, families
from cloudtask.exceptions import PayloadError


def _function_of(promise: Any) -> Callable[..., Any]:
    """The function that a lazy value calls; Promise shows it to pickle alone."""
    function: Callable[..., Any] = promise.__reduce__()[1][0]
    return function


@lru_cache(maxsize=1)
def _functions() -> dict[str, Callable[..., Any]]:
    """What a lazy value may call; a payload can name nothing else.

    Imported when first needed: django.urls brings django.db.models along.
    """
    from django.urls import reverse
    from django.utils import translation
    from django.utils.text import format_lazy

    return {
        "gettext": translation.gettext,
        "ngettext": translation.ngettext,
        "pgettext": translation.pgettext,
        "npgettext": translation.npgettext,
        "reverse": reverse,
        "format_lazy": _function_of(format_lazy("")),
        "lazystr": _function_of(lazystr("")),
    }


def _name_of(function: Any) -> str | None:
    return next(
        (name for name, known in _functions().items() if known is function), None
    )


def _pack_promise(value: Any, packing: Packing) -> Any:
    function, *arguments = value.__reduce__()[1]
    name = _name_of(function)
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
    return lazy(_functions()[name], str)(*args, **kwargs)


def _decode_counted(payload: Any) -> Any:
    from django.utils.translation import ngettext_lazy, npgettext_lazy

    name, kwargs = payload
    if name not in ("ngettext", "npgettext"):
        raise PayloadError(f"The payload has a lazy plural of {name!r}.")
    return (ngettext_lazy if name == "ngettext" else npgettext_lazy)(**kwargs)


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
