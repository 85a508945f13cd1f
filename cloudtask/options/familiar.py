"""Translates the names that Celery and djangae use for the options of a task."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from cloudtask.options.facts import nearest

_ATTEMPTS = "write max_attempts=..., which also counts the first attempt."
_TIMEOUT = "write timeout=..., after which Cloud Tasks stops to wait for the answer."
_BACKOFF = "write backoff=Backoff(...) or a function of yours."
_FAMILIAR = {
    "retries": ("max_attempts", _ATTEMPTS),
    "max_retries": ("max_attempts", _ATTEMPTS),
    "time_limit": ("timeout", _TIMEOUT),
    "soft_time_limit": ("timeout", _TIMEOUT),
    "default_retry_delay": ("backoff", _BACKOFF),
    "retry_backoff": ("backoff", _BACKOFF),
    "_retry_options": ("max_attempts", "write max_attempts=... and backoff=..."),
    "ignore_result": (
        "keep_result",
        "a result is dropped unless you write keep_result=...",
    ),
    "rate_limit": ("queue", "set the rate of its queue in CLOUDTASK['QUEUES']."),
}


def advice(name: str, known: Iterable[str], others: Iterable[str] = ()) -> str:
    """The advice at the end of an error text about an unknown option.

    It is the option of ours for a name of Celery or djangae, else the nearest name.
    `others` are options of another call.
    """
    names = tuple(known)
    ours, text = _FAMILIAR.get(name, ("", ""))
    return text if ours in names else nearest(name, names, others)


def check_options(
    what: str,
    given: Iterable[str],
    known: Collection[str],
    others: Collection[str] = (),
) -> None:
    """Raise TypeError for an option that is not in `known`; `what` has options.

    `others` are options of another call, which a misspelt name may mean.
    """
    for name in given:
        if name not in known:
            told = advice(name, known, others)
            raise TypeError(f"{what} has no option {name!r:.60}; {told}")
