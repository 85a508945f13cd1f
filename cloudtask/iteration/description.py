"""Describes a run: the rows or items to walk, and the options.

Holds the keywords of `iterate()` and `map()`, their checks, and the sealed value in the
row of the run.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import timedelta
from typing import Any, Literal, TypedDict

from cloudtask import codec, stores
from cloudtask.discretion import shown
from cloudtask.exceptions import ConfigurationError, PayloadTooLarge
from cloudtask.iteration.planner import MAX_SHARDS
from cloudtask.iteration.sources import ListSource, QuerySetSource, Source
from cloudtask.options import Options, as_timedelta
from cloudtask.quotas import PAYLOAD
from cloudtask.registry import Definition

OnError = Literal["retry", "skip", "pause", "abort"]
Atomic = Literal["page", "row"]
_ON_ERROR = ("retry", "skip", "pause", "abort")
_ATOMIC = (None, "page", "row")
MARGIN = 10.0  # seconds that are left before the dispatch deadline, at least
A_ROW = "a row"  # stands for the row where a call is checked


class MapOptions(TypedDict, total=False):
    """The keywords of `.map` beside the items and `batch_size`; see
    `Deferrable.iterate`."""

    finalize: Callable[..., Any] | None
    on_failure: Callable[..., Any] | None
    args: Sequence[Any]
    kwargs: dict[str, Any] | None
    shards: int | None
    atomic: Atomic | None
    on_error: OnError
    max_failures: float | None
    keep: bool
    transactional: bool | None


class IterateOptions(MapOptions, total=False):
    """The further keywords of `.iterate`; see `Deferrable.iterate`."""

    include_new: bool
    margin: timedelta | float


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """The thing to walk, `queryset` or `items`, and how to walk it.

    Parts that name models or functions are encoded one by one: a version of the
    application that can't read one of them can still read the others.
    """

    queryset: bytes | None = None
    items: bytes | None = None
    arguments: bytes
    finalize: bytes | None = None
    on_failure: bytes | None = None
    shards: int | None = None
    batch_size: int | None = None
    atomic: Atomic | None = None
    on_error: OnError = "retry"
    max_failures: float | None = None
    margin: float = MARGIN
    include_new: bool = False
    database: str = "default"

    def sealed(self) -> bytes:
        """The bytes for the row of the run, which the store seals; raises
        PayloadTooLarge."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        packed = codec.dumps(values, root="iterate")
        if len(packed) > PAYLOAD:
            raise PayloadTooLarge(
                f"The queryset or list of the iteration takes {len(packed):,} bytes, "
                f"more than {PAYLOAD:,}. Put the items into a table and iterate() over "
                "that, or map() over the ids of large items."
            )
        return packed

    def source(self) -> Source:
        """The rows or items; raises PayloadError if this version can't read them."""
        if self.queryset is not None:
            return QuerySetSource(codec.loads(self.queryset))
        return ListSource(self.items or b"[]")

    def call_arguments(self) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """args and kwargs of callback and finalize; raises PayloadError."""
        return codec.loads_call(self.arguments)

    def last_function(self, what: str) -> Any:
        """`finalize` or `on_failure`; None for none. Raises PayloadError and
        TaskNotFound."""
        encoded = getattr(self, what)
        return None if encoded is None else codec.loads(encoded)


def unsealed(data: bytes) -> Description:
    """The reverse of `Description.sealed`; raises PayloadError."""
    values = codec.loads(data)
    known = {f.name for f in fields(Description)}
    return Description(**{name: values[name] for name in known if name in values})


def described(
    definition: Definition, options: Options, policy: Mapping[str, Any], **what: bytes
) -> Description:
    """The description of a call with these keywords over `what`: an encoded queryset,
    or items. Raises ConfigurationError, TypeError or ValueError for a call that would
    fail at its first row or at its end."""
    finalize, on_failure = policy.get("finalize"), policy.get("on_failure")
    margin = policy.get("margin", MARGIN)
    description = Description(
        queryset=what.get("queryset"),
        items=what.get("items"),
        arguments=_arguments(definition, options, policy),
        finalize=_encoded(finalize, "finalize", definition.path),
        on_failure=_encoded(on_failure, "on_failure", definition.path),
        shards=policy.get("shards"),
        batch_size=policy.get("batch_size"),
        # A task that takes effect once keeps that promise for each row.
        atomic=policy.get("atomic") or ("page" if options.atomic else None),
        on_error=policy.get("on_error", "retry"),
        max_failures=policy.get("max_failures"),
        margin=as_timedelta(margin, "margin").total_seconds(),
        include_new=bool(policy.get("include_new", False)),
        database=options.database,
    )
    _check_call(definition, options, description)
    args, kwargs = description.call_arguments()
    for name, function in (("finalize", finalize), ("on_failure", on_failure)):
        if function is not None:
            _check_last(name, function, args, kwargs)
    _check_values(description)
    return description


def _encoded(function: Any, what: str, of: str) -> bytes | None:
    if function is None:
        return None
    if not callable(function):
        raise TypeError(
            f"{what} must be a task or a function, not {shown(function)}. Its options "
            "are those of its @task, and its queue is that of the iteration."
        )
    return codec.dumps(function, root=what, of=of)


def _arguments(
    definition: Definition, options: Options, policy: Mapping[str, Any]
) -> bytes:
    args, kwargs = policy.get("args", ()), policy.get("kwargs")
    if isinstance(args, str) or not isinstance(args, Sequence):
        raise TypeError(f"args must be a list or a tuple, not {shown(args)}.")
    if not isinstance(kwargs, dict | None):
        raise TypeError(f"kwargs must be a dict, not {shown(kwargs)}.")
    return codec.dumps_call(
        tuple(args),
        kwargs or {},
        wipe_related_caches=options.wipe_related_caches,
        of=definition.path,
    )


def _check_call(
    definition: Definition, options: Options, description: Description
) -> None:
    if definition.has_subject:
        raise ConfigurationError(
            f"{definition.path} is a method; iterate() calls a function with each row. "
            "Write a function that calls the method."
        )
    if options.name is not None:
        raise TypeError("iterate() names its own tasks: leave name= out.")
    args, kwargs = description.call_arguments()
    definition.check_call((A_ROW, *args), kwargs)
    if description.atomic and stores.store().database != description.database:
        raise ConfigurationError(
            f"atomic={description.atomic!r} needs the cursor in the database that the "
            f"callback writes to: set CLOUDTASK['STORE'] to a DatabaseStore with "
            f"ALIAS {description.database!r}."
        )


def _check_last(
    what: str, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    try:
        check_signature(what, function, args, kwargs)
    except ValueError:
        raise TypeError(
            f"{what} must be a task or a function of a module, not {shown(function)}."
        ) from None
    options = getattr(function, "options", None)
    if not isinstance(options, Options) or not options.atomic:
        return
    if stores.store().database != options.database:
        raise ConfigurationError(
            f"{what} is atomic on the database {options.database!r}, which is not that "
            "of CLOUDTASK['STORE']: it can't commit together with its run."
        )


def check_signature(
    what: str, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    """Raise TypeError unless the last function of a run takes its arguments; raises
    ValueError if it has no signature."""
    signature = inspect.signature(function)
    try:
        signature.bind(*args, **kwargs)
    except TypeError as error:
        raise TypeError(
            f"{what} is called with args and kwargs, without a row, but takes "
            f"{signature}: {error}."
        ) from None


def _check_values(description: Description) -> None:
    for name, allowed in (("on_error", _ON_ERROR), ("atomic", _ATOMIC)):
        value = getattr(description, name)
        if value not in allowed:
            raise ValueError(f"{name} must be one of {allowed}, not {value!r:.60}.")
    for name, most in (("shards", MAX_SHARDS), ("batch_size", sys.maxsize)):
        _check_number(name, getattr(description, name), most)
    limit = description.max_failures
    if limit is not None and (
        not isinstance(limit, int | float) or isinstance(limit, bool) or not limit >= 0
    ):
        raise ValueError(
            f"max_failures must be a number of rows or a share, not {shown(limit)}."
        )
    if description.margin < 0:
        raise ValueError(
            f"margin must not be negative, not {shown(description.margin)} s."
        )
    if description.atomic == "row" and description.batch_size is not None:
        raise ValueError(
            'atomic="row" is a transaction for each row, batch_size a call for many '
            'rows: use atomic="page" with lists.'
        )


def _check_number(name: str, value: Any, most: int) -> None:
    if value is None:
        return
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{name} must be a whole number from 1, not {shown(value)}.")
    if value > most:
        raise ValueError(f"{name} must be {most} at most, not {shown(value)}.")
