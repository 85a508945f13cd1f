"""Provides `defer` and its companions as djangae and App Engine had them.

Callables of installed apps can be deferred without `@task`. docs/howto/from-djangae.md
tells what is the same, and what is stronger.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, cast

from django.db import connections
from django.utils.timezone import is_naive

from cloudtask import callables, clock, runtime
from cloudtask.callables import Form
from cloudtask.context import current
from cloudtask.decorators import Deferrable, library_task
from cloudtask.discretion import discreet
from cloudtask.exceptions import PermanentTaskFailure, SingularTaskFailure
from cloudtask.iteration import Iteration
from cloudtask.message import Enqueued
from cloudtask.options import OPTIONS, Backoff, nearest
from cloudtask.stores.transactions import is_relational
from cloudtask.workflows import Signature

__all__ = [
    "PermanentTaskFailure",
    "SingularTaskFailure",
    "TimeoutException",
    "defer",
    "defer_iteration_with_finalize",
    "get_deferred_shard_index",
    "s",
    "si",
]

CALLBACK_TIME = timedelta(seconds=30)  # for a callback: shards stop that much early
ROW_ATTEMPTS = 1_000_000  # djangae tries a row again until a fix is deployed

# The names of the tasks below stand in URLs, in queued tasks and in logs.
DEFER = "cloudtask.defer"
DEFER_ROW = "cloudtask.defer_row"
DEFER_FINALIZE = "cloudtask.defer_finalize"

# The options by their names here; `_eta` sees to these two.
_OPTIONS = {
    theirs: option.name
    for option in OPTIONS.values()
    if option.name not in ("countdown", "eta")
    for theirs in option.deferred
}
_RETRY_OPTIONS = {
    "task_retry_limit": "retries",
    "max_attempts": "attempts",
    "min_backoff_seconds": "min",
    "min_backoff": "min",
    "max_backoff_seconds": "max",
    "max_backoff": "max",
    "max_doublings": "doublings",
}


class TimeoutException(SingularTaskFailure):
    """A callback raises it to have the row tried again later; no error is recorded."""


@discreet
def defer(obj: Any, /, *args: Any, **kwargs: Any) -> Enqueued:
    """Have `obj(*args, **kwargs)` called once, later.

    `obj` is a function or class that can be imported, a method of an instance or a
    class, a callable instance, or a task. Its module, or that of its class, must be in
    an installed app or in TRUSTED_MODULES. Keywords with these names are options:
    `_countdown` (seconds), `_eta` (datetime; naive means UTC, past means now), `_name`,
    `_queue`, `_transactional` (default: whether `_using` is in an atomic block),
    `_using`, `_small_task` or `_small`, `_wipe_related_caches`, `_retry_options`,
    `_service`, `_version`, `_instance`, `_url`, `_headers`.

    Raises ValueError for what can't be called, UnsupportedValue for what can't travel,
    TypeError for arguments that `obj` does not take, EnqueueError when the queue does
    not take the task.
    """
    if "_target" in kwargs:
        raise UserWarning("_target is not an option any more: give _version instead.")
    options = _taken_from(kwargs)
    _follow_commit(options)
    if isinstance(obj, Deferrable):
        return obj.using(**options).defer(*args, **kwargs)
    form = callables.form_of(obj)
    callables.check_call(obj, args, kwargs)
    definition, chosen, _ = (run.using(**options) if options else run)._parts()
    return runtime.enqueue(definition, chosen, (form, *args), kwargs)


@discreet
def s(obj: Any, /, *args: Any, **kwargs: Any) -> Signature:
    """`obj(*args, **kwargs)` as a part of `chain()` and `group()`.

    In a chain `obj` gets the value of the step before as its first argument. `obj` and
    the options among the keywords are as in `defer`; steps take no `_eta`, `_name` and
    `_transactional`. Raises as `defer` does.
    """
    return _signature(obj, args, kwargs, is_immutable=False)


@discreet
def si(obj: Any, /, *args: Any, **kwargs: Any) -> Signature:
    """As `s`, but `obj` gets these arguments alone, and no value."""
    return _signature(obj, args, kwargs, is_immutable=True)


def _signature(
    obj: Any, args: tuple[Any, ...], kwargs: dict[str, Any], *, is_immutable: bool
) -> Signature:
    countdown = kwargs.pop("_countdown", None)
    options = _taken_from(kwargs)
    if countdown is not None:
        options["countdown"] = countdown
    if isinstance(obj, Deferrable):
        task: Any = obj.using(**options) if options else obj
        return cast(Signature, (task.si if is_immutable else task.s)(*args, **kwargs))
    form = callables.form_of(obj)
    definition, chosen, _ = (run.using(**options) if options else run)._parts()
    return CallableSignature(
        *(definition, chosen, (form,), args, kwargs),
        is_immutable=is_immutable,
    )


class CallableSignature(Signature):
    """A call of a callable that is no task, which checks its arguments itself."""

    def _check_arguments(self, where: str, takes_value: bool) -> None:
        value = (None,) if takes_value else ()
        try:
            [form] = self.subject
            found = callables.resolve(form)
            callables.check_call(found, (*value, *self.args), self.kwargs)
        except TypeError as error:
            raise TypeError(f"{where}, {error}") from None


@library_task(DEFER)
def run(subject: Form, /, *args: Any, **kwargs: Any) -> Any:
    """Call the callable that `defer` was given: the task of all its calls."""
    return callables.resolve(subject)(*args, **kwargs)


def _follow_commit(options: dict[str, Any]) -> None:
    """In Datastore, `_transactional=True` means after the commit, as it always did.

    `@task` refuses it there, because a task has no row that commits with the data.
    """
    alias = options.get("database", "default")
    if options.get("transactional") and alias in connections:
        options["transactional"] = True if is_relational(alias) else None


def _taken_from(kwargs: dict[str, Any]) -> dict[str, Any]:
    """The options among `kwargs`, under our names; they are removed there."""
    options: dict[str, Any] = {}
    for theirs, ours in _OPTIONS.items():
        value = kwargs.pop(theirs, None)
        if value is not None:
            options[ours] = value
    if "queue" in options:
        # The name of a queue may come with its path.
        options["queue"] = options["queue"].rpartition("/")[2]
    eta = _eta(kwargs.pop("_countdown", None), kwargs.pop("_eta", None))
    if eta is not None:
        options["eta"] = eta
    retry_options = kwargs.pop("_retry_options", None)
    if retry_options is not None:
        options.update(_retries(retry_options))
    return options


def _eta(countdown: float | timedelta | None, eta: datetime | None) -> datetime | None:
    """The moment ahead from which the call may run; `countdown` goes before `eta`."""
    now = datetime.fromtimestamp(clock.now(), UTC)
    if countdown:
        delay = countdown if isinstance(countdown, timedelta) else None
        eta = now + (delay or timedelta(seconds=countdown))  # type: ignore[arg-type]
    if eta is None:
        return None
    if is_naive(eta):
        eta = eta.replace(tzinfo=UTC)
    return eta if eta > now else None


def _retries(given: Any) -> dict[str, Any]:
    """App Engine's TaskRetryOptions, Cloud Tasks' RetryConfig, or a dict of either's
    names, as our options. Raises TypeError for a name that is neither's."""
    if isinstance(given, Backoff):
        return {"backoff": given}
    values = given if isinstance(given, Mapping) else _attributes(given)
    found: dict[str, Any] = {}
    for name, value in values.items():
        if name not in _RETRY_OPTIONS:
            raise TypeError(
                f"_retry_options has {name!r}, which can't be set for a single task; "
                f"{nearest(name, _RETRY_OPTIONS)}"
            )
        if value is not None:
            found[_RETRY_OPTIONS[name]] = value
    attempts = found.pop("attempts", None)
    if "retries" in found:
        attempts = found.pop("retries") + 1
    options = {} if attempts is None else {"max_attempts": attempts}
    return {**options, "backoff": Backoff(**found)} if found else options


def _attributes(given: Any) -> dict[str, Any]:
    found = {name: getattr(given, name, None) for name in _RETRY_OPTIONS}
    unknown = getattr(given, "task_age_limit", None)
    return {**found, "task_age_limit": unknown} if unknown is not None else found


@discreet
def defer_iteration_with_finalize(
    queryset: Any,
    callback: Any,
    finalize: Any,
    args: Any = None,
    _queue: str = "default",
    _shards: int = 5,
    _delete_marker: bool = True,
    _transactional: bool | None = False,
    **kwargs: Any,
) -> Iteration:
    """Call `callback(instance, *args, **kwargs)` for every row of `queryset`, in
    shards, then `finalize(*args, **kwargs)` once.

    A row that raises is tried again until it passes; `finalize` runs after all rows.
    With `_delete_marker=False` the run is kept as a log. `key_ranges_getter` and
    `order_field`, which newer versions of djangae take, are not needed here.
    """
    kwargs.pop("key_ranges_getter", None)
    if kwargs.pop("order_field", "pk") not in ("pk", queryset.model._meta.pk.name):
        raise ValueError("Rows are walked in the order of their primary key only.")
    policy: dict[str, Any] = {"transactional": _transactional}
    _follow_commit(policy)
    forms = [callables.form_of(callback), callables.form_of(finalize)]
    given = tuple(args or ())
    callables.check_call(callback, ("a row", *given), kwargs)
    callables.check_call(finalize, given, kwargs)
    return run_row.using(queue=_queue or "default").iterate(
        queryset,
        finalize=run_finalize,
        args=(forms, *given),
        kwargs=kwargs,
        shards=_shards,
        keep=not _delete_marker,
        **policy,
        margin=CALLBACK_TIME,
    )


@library_task(DEFER_ROW, max_attempts=ROW_ATTEMPTS)
def run_row(instance: Any, forms: list[Form], /, *args: Any, **kwargs: Any) -> None:
    """Call the callback of an iteration for one row."""
    callables.resolve(forms[0])(instance, *args, **kwargs)


@library_task(DEFER_FINALIZE)
def run_finalize(forms: list[Form], /, *args: Any, **kwargs: Any) -> None:
    """Call finalize of an iteration."""
    callables.resolve(forms[1])(*args, **kwargs)


def get_deferred_shard_index() -> int | None:
    """The number of the shard that runs here, from 0; None outside of a callback."""
    context = current()
    return None if context is None else context.shard_index
