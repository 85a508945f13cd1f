"""Lazy values: translations stay lazy, so that they render in the worker's language."""

from __future__ import annotations

import datetime as dt
import re
import string
from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import Decimal
from functools import lru_cache
from typing import Any
from uuid import UUID

from django.utils.functional import LazyObject, Promise, empty, lazy, lazystr
from django.utils.safestring import SafeString

from cloudtask import conf
from cloudtask.codec import shapes, tags
from cloudtask.codec.packing import Packer, Packing, decoders, families
from cloudtask.codec.refusals import REGISTER, Refusal
from cloudtask.codec.tags import MARK
from cloudtask.codec.trust import loaded
from cloudtask.exceptions import PayloadError

# Names of functions as they travel.
FORMAT = "format_lazy"
REVERSE = "reverse"
PLURALS = ("ngettext", "npgettext")

# What a lazy call may get. Rendering calls methods of its arguments: str(), format().
_SCALARS = (
    *(type(None), bool, int, float, str, SafeString, Decimal, UUID),
    *(dt.date, dt.datetime, dt.time, dt.timedelta),
)
_LOOKS_INSIDE = re.compile(r"[.\[]")  # the field of a format string
_WIDE = re.compile(r"\d{4}")  # a width or precision that fills the memory


class _Formatter(string.Formatter):
    """str.format() that looks into none of its arguments."""

    def get_field(
        self, field_name: str, args: Sequence[Any], kwargs: Mapping[str, Any]
    ) -> Any:
        if _LOOKS_INSIDE.search(field_name):
            raise ValueError("A lazy string may not look into its arguments.")
        return super().get_field(field_name, args, kwargs)

    def format_field(self, value: Any, format_spec: str) -> str:
        if _WIDE.search(format_spec):
            raise ValueError("A lazy string may not be that wide.")
        text: str = super().format_field(value, format_spec)
        return text


def _formatted(text: Any, *args: Any, **kwargs: Any) -> str:
    """The function that `format_lazy` calls when the text is rendered."""
    return _Formatter().vformat(str(text), args, kwargs)


def _function_of(promise: Any) -> Callable[..., Any]:
    """The function that a lazy value calls; Promise shows it to pickle alone."""
    function: Callable[..., Any] = promise.__reduce__()[1][0]
    return function


@lru_cache(maxsize=1)
def _functions() -> dict[str, Callable[..., Any]]:
    """The functions that a lazy value may call; a payload can name no other.

    Imported when first needed: django.urls brings django.db.models along.
    """
    from django.urls import reverse
    from django.utils import translation

    return {
        "gettext": translation.gettext,
        "ngettext": translation.ngettext,
        "pgettext": translation.pgettext,
        "npgettext": translation.npgettext,
        REVERSE: reverse,
        FORMAT: _formatted,
        "lazystr": _function_of(lazystr("")),
    }


@lru_cache(maxsize=1)
def _names() -> dict[Any, str]:
    from django.utils.text import format_lazy

    names: dict[Any, str] = {f: name for name, f in _functions().items()}
    return {**names, _function_of(format_lazy("")): FORMAT}


# What a function may get; raises PayloadError.


def _scalars(values: Iterable[Any]) -> None:
    for value in values:
        if type(value) not in _SCALARS and not isinstance(value, Promise):
            kind = type(value).__name__
            raise PayloadError(f"A lazy string takes no {kind}: pass str() of it.")


def _check_call(name: str, args: Any, kwargs: Any) -> None:
    if name == REVERSE:
        _check_reverse(*args, **kwargs)
        return
    _scalars(args)
    _scalars(kwargs.values())
    if name == FORMAT and args and type(args[0]) is str:
        _check_format(args[0])


def _check_reverse(
    viewname: Any,
    urlconf: Any = None,
    args: Any = None,
    kwargs: Any = None,
    current_app: Any = None,
    **rest: Any,  # query and fragment, from Django 5.2 on
) -> None:
    if type(viewname) is not str:
        raise PayloadError("A lazy URL takes the name of its view.")
    if urlconf is not None and shapes.text(urlconf) != conf.root_urlconf():
        loaded(urlconf)  # reverse() would import any module
    _scalars([current_app])
    for values in (args, kwargs, *rest.values()):
        _check_values(values)


def _check_values(values: Any) -> None:
    """Scalars, or a list, tuple or dict of them."""
    if type(values) in (list, tuple):
        _scalars(values)
    elif type(values) is dict:
        _scalars((*values, *values.values()))
    else:
        _scalars([values])


def _check_format(text: str, depth: int = 0) -> None:
    """Refuse what `_Formatter` would, already when the string is encoded."""
    for _, name, spec, _ in string.Formatter().parse(text):
        if name and _LOOKS_INSIDE.search(name):
            raise PayloadError(
                f"A lazy string may not look into its arguments, as in {{{name}}}."
            )
        if spec and _WIDE.search(spec):
            raise PayloadError("A lazy string may not be that wide.")
        if spec and depth < 2:
            _check_format(spec, depth + 1)


# Packing and decoding.


def _pack_promise(value: Any, packing: Packing) -> Any:
    function, *arguments = value.__reduce__()[1]
    name = _names().get(function)
    if name is None:
        raise Refusal(
            Promise, f"Only translations stay lazy; pass str() of it, or {REGISTER}."
        )
    if len(arguments) == 3 and isinstance(arguments[2], dict):  # a lazy number
        _, number, given = arguments
        return {
            MARK: [tags.COUNTED, [name, packing.mapping({**given, "number": number})]]
        }
    args, kwargs = arguments[:2]
    packed = [name, packing.items(args), packing.mapping(kwargs)]
    try:
        _check_call(name, args, kwargs)
    except (PayloadError, TypeError, ValueError) as error:
        raise Refusal(Promise, str(error)) from error
    return {MARK: [tags.LAZY, packed]}


def _decode_lazy(content: Any) -> Any:
    name, args, kwargs = shapes.parts(content, 3)
    if shapes.text(name) not in _functions():
        raise PayloadError("The payload has a lazy call of an unknown function.")
    _check_call(name, shapes.listed(args), shapes.named(kwargs))
    return lazy(_functions()[name], str)(*args, **kwargs)


def _decode_counted(content: Any) -> Any:
    from django.utils.translation import ngettext_lazy, npgettext_lazy

    name, kwargs = shapes.parts(content, 2)
    if shapes.text(name) not in PLURALS:
        raise PayloadError("The payload has a lazy plural of an unknown function.")
    _scalars(shapes.named(kwargs).values())
    return (ngettext_lazy if name == "ngettext" else npgettext_lazy)(**kwargs)


def _pack_wrapped(value: Any, packing: Packing) -> Any:
    """The object behind a LazyObject: `request.user` arrives as the user."""
    if value._wrapped is empty:
        value._setup()
    return packing.pack(value._wrapped)


def _family(kind: type) -> Packer | None:
    if issubclass(kind, Promise):
        return _pack_promise
    if issubclass(kind, LazyObject):
        return _pack_wrapped
    return None


decoders[tags.LAZY] = _decode_lazy
decoders[tags.COUNTED] = _decode_counted
families.append(_family)
