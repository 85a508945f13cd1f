"""Filters of queries for what begins with a prefix."""

from __future__ import annotations

from cloudtask.stores.datastore.access import Filter


def names_beginning(kind: str, prefix: str) -> tuple[Filter, Filter]:
    """Filters for the rows of `kind` whose name begins with `prefix`."""
    return ("__key__", ">=", (kind, prefix)), ("__key__", "<", (kind, after(prefix)))


def beginning(name: str, prefix: str) -> tuple[Filter, Filter]:
    """Filters for the rows whose property `name` begins with `prefix`."""
    return (name, ">=", prefix), (name, "<", after(prefix))


def after(prefix: str) -> str:
    """The first text, in the order of Datastore, after all that begin with `prefix`."""
    return prefix[:-1] + chr(ord(prefix[-1]) + 1)
