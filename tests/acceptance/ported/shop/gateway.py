"""The mail service of the shop, as unreliable as such services are."""

from __future__ import annotations

from .models import Entry


class Busy(Exception):
    pass


class Refused(Exception):
    pass


def send(to: str, subject: str) -> None:
    """Raises Busy for the first mail to busy@, Refused for any to nobody@."""
    if to.startswith("nobody@"):
        raise Refused(to)
    if to.startswith("busy@") and Entry.add_once(f"busy for {subject}"):
        raise Busy(to)
    Entry.objects.create(text=f"{subject} to {to}")
