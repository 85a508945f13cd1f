"""Translates the names that other libraries use for the verbs of a task."""

from __future__ import annotations

OPTIONS = ".using(countdown=..., queue=...).defer(...)"
# Celery, RQ, Dramatiq, Huey, django.tasks, Procrastinate.
OURS = {
    "adelay": ".adefer(...)",
    "aenqueue": ".adefer(...)",
    "apply_async": OPTIONS,
    "chunks": ".defer_many([call(...), ...]) or .map(...)",
    "configure": OPTIONS,
    "defer_async": ".adefer(...)",
    "delay": ".defer(...)",
    "delay_on_commit": ".defer(...), which waits for the commit",
    "enqueue": ".defer(...)",
    "enqueue_at": OPTIONS,
    "enqueue_in": OPTIONS,
    "message": ".s(...)",
    "schedule": OPTIONS,
    "send": ".defer(...)",
    "send_with_options": OPTIONS,
    "signature": ".s(...)",
    "starmap": ".defer_many([call(...), ...]) or .map(...)",
    "subtask": ".s(...)",
}


def hint(path: str, name: str) -> str | None:
    """The message of an AttributeError for a name of another library."""
    ours = OURS.get(name)
    return None if ours is None else f"{path} has no {name!r}: write {ours}."
