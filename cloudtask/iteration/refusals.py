"""What iterate() and map() refuse at the call: what the first row, or the last, would
only find out."""

from __future__ import annotations

import inspect
import sys
from typing import Any

from cloudtask.exceptions import ConfigurationError
from cloudtask.iteration.description import Description
from cloudtask.iteration.finalizing import is_atomic_here
from cloudtask.iteration.planner import MAX_SHARDS
from cloudtask.options import Options
from cloudtask.registry import Definition
from cloudtask.stores import store

_ON_ERROR = ("retry", "skip", "pause", "abort")
_ATOMIC = (None, "page", "row")


def check(
    definition: Definition,
    options: Options,
    description: Description,
    finalize: Any,
    on_failure: Any,
) -> None:
    """Raise ConfigurationError, TypeError or ValueError for what can't be done."""
    if definition.has_subject:
        raise ConfigurationError(
            f"{definition.path} is a method; iterate() calls a function with each row. "
            "Write a function that calls the method."
        )
    if options.name is not None:
        raise TypeError("iterate() names its own tasks: leave name= out.")
    args, kwargs = description.call_arguments()
    definition.check_call(("a row", *args), kwargs)
    for what, function in (("finalize", finalize), ("on_failure", on_failure)):
        if function is not None:
            _check_last(what, function, args, kwargs)
    _check_values(description)
    if description.atomic and store().database != description.database:
        raise ConfigurationError(
            f"atomic={description.atomic!r} needs the cursor in the database that the "
            f"callback writes to: set CLOUDTASK['STORE'] to a DatabaseStore with "
            f"ALIAS {description.database!r}."
        )


def _check_last(
    what: str, function: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> None:
    try:
        signature = inspect.signature(function)
    except ValueError:
        raise TypeError(
            f"{what} must be a task or a function of a module, not {function!r}."
        ) from None
    try:
        signature.bind(*args, **kwargs)
    except TypeError as error:
        raise TypeError(
            f"{what} is called with args and kwargs, without a row, but takes "
            f"{signature}: {error}."
        ) from None
    options = getattr(function, "options", None)
    if not isinstance(options, Options) or not options.atomic:
        return
    if not is_atomic_here(store(), options):
        raise ConfigurationError(
            f"{what} is atomic on the database {options.database!r}, which is not that "
            "of CLOUDTASK['STORE']: it can't commit together with its run."
        )


def _check_values(description: Description) -> None:
    for name, allowed in (("on_error", _ON_ERROR), ("atomic", _ATOMIC)):
        value = getattr(description, name)
        if value not in allowed:
            raise ValueError(f"{name} must be one of {allowed}, not {value!r}.")
    for name, most in (("shards", MAX_SHARDS), ("batch_size", sys.maxsize)):
        value = getattr(description, name)
        if value is not None and (
            not isinstance(value, int) or isinstance(value, bool) or value < 1
        ):
            raise ValueError(f"{name} must be a whole number from 1, not {value!r}.")
        if value is not None and value > most:
            raise ValueError(f"{name} must be {most} at most, not {value!r}.")
    limit = description.max_failures
    if limit is not None and (
        not isinstance(limit, int | float) or isinstance(limit, bool) or not limit >= 0
    ):
        raise ValueError(
            f"max_failures must be a number of rows or a share, not {limit!r}."
        )
    if description.margin < 0:
        raise ValueError(f"margin must not be negative, not {description.margin!r} s.")
    if description.atomic == "row" and description.batch_size is not None:
        raise ValueError(
            'atomic="row" is a transaction for each row, batch_size a call for many: '
            'take atomic="page" with lists.'
        )
