"""The page of the outboxes: what waits, what is parked, and why."""

from __future__ import annotations

from typing import Any

from django.db import DatabaseError
from django.http import HttpResponse

from cloudtask import models
from cloudtask.dashboard.visits import Visit, page
from cloudtask.discretion import printable
from cloudtask.exceptions import CloudTaskError
from cloudtask.sending import relay, waiting
from cloudtask.sending.waiting import is_without_relay
from cloudtask.stores import store

LINES = 25


@page("outbox", ["view_outbox"])
def outbox_list(visit: Visit) -> HttpResponse:
    aliases = waiting.aliases()
    if visit.request.method == "POST":
        return _act(visit, aliases)
    noted = store().upkeep()
    parts = [_part(visit, alias) for alias in aliases]
    lates = [part["counts"].late for part in parts if "counts" in part]
    late = max((one for one in lates if one is not None), default=None)
    return visit.render(
        "outbox.html",
        "Outbox",
        parts=parts,
        relay=noted.get("relay"),
        late=late,
        is_late=is_without_relay(late, noted.get("relay")),
        is_parked=visit.given("show") != "waiting",
        may_release=visit.may("release_outbox"),
        may_look=visit.may("view_call"),
        may_cancel=visit.may("view_call") and visit.may("cancel_call"),
    )


def _part(visit: Visit, alias: str) -> dict[str, Any]:
    """The part of the page for one database; a sentence if that is unavailable."""
    is_parked = visit.given("show") != "waiting"
    after = visit.given("after") if visit.given("of") == alias else None
    try:
        counts = waiting.counts(alias)
        try:
            rows = waiting.page(alias, parked=is_parked, after=after, limit=LINES)
        except ValueError:  # the mark in the URL was altered
            rows = waiting.page(alias, parked=is_parked, limit=LINES)
        errors = waiting.parked_by_error(alias) if counts.parked else []
    except DatabaseError as error:
        return {"alias": alias, "why": printable(str(error))}
    return {
        "alias": alias,
        "counts": counts,
        "rows": rows.items,
        "next": rows.next,
        "is_first": after is None,
        "errors": errors,
    }


def _act(visit: Visit, aliases: list[str]) -> HttpResponse:
    post = visit.request.POST
    verb, _, alias = post.get("verb", "").partition(":")
    what, _, value = verb.partition("=")
    if alias not in aliases or what not in ("row", "error", "all"):
        visit.say("There is no such outbox or action.", is_error=True)
        return visit.back()

    def release() -> str:
        if what == "row":
            released = relay.release(alias, [value])
        elif what == "error":
            released = waiting.release_like(alias, post.get(f"error-{value}", ""))
        else:
            released = relay.release(alias)
        if not released:
            raise CloudTaskError("Nothing is parked there any more.")
        return f"{released:,} released in {alias!r}: the next relay sends them."

    thing = models.Outbox(id=f"{alias} {value}".strip())
    return visit.act("release", "release_outbox", thing, release)
