"""Filters of the dashboard's templates."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from django import template
from django.utils.html import format_html_join
from django.utils.safestring import SafeString, mark_safe
from django.utils.timezone import make_aware

from cloudtask import clock
from cloudtask.discretion import printable
from cloudtask.stores.pages import MOST

register = template.Library()

_UNITS = ((86_400, "d"), (3_600, "h"), (60, "min"), (1, "s"))


@register.filter
def module(path: str) -> str:
    """The part of a task's path in front of its last name, with its dot."""
    return path[: len(path) - len(function(path))]


@register.filter
def function(path: str) -> str:
    return path.rpartition(".")[2] or path


@register.filter
def number(value: int) -> str:
    """A number; "10,000+" where counting has stopped."""
    return f"{MOST - 1:,}+" if value >= MOST else f"{value:,}"


@register.filter
def whole(value: float) -> str:
    """A number with commas, and a decimal place if it is small and not whole."""
    is_whole = float(value).is_integer() or value >= 100
    return f"{value:,.0f}" if is_whole else f"{value:,.1f}"


@register.filter
def lasting(value: timedelta | float | None) -> str:
    """A duration in its two largest units."""
    if value is None:
        return ""
    seconds = value.total_seconds() if isinstance(value, timedelta) else value
    if 0 < seconds < 1:
        return f"{seconds:.1f} s"
    left = int(seconds)
    parts: list[str] = []
    for size, unit in _UNITS:
        if left >= size and len(parts) < 2:
            parts.append(f"{left // size} {unit}")
            left %= size
        elif parts:
            break
    return " ".join(parts) or "0 s"


@register.filter
def ago(at: datetime) -> str:
    """How long ago a moment was, in its two largest units."""
    moment = at if at.tzinfo else make_aware(at)
    passed = clock.now() - moment.timestamp()
    return "just now" if passed < 1 else f"{lasting(float(int(passed)))} ago"


@register.filter
def milliseconds(seconds: float) -> str:
    return f"{seconds * 1000:,.0f} ms"


@register.filter
def marked(text: str) -> SafeString:
    """A text in which what stands between backticks is code."""
    parts = text.split("`")
    return format_html_join(
        "",
        "{}{}{}",
        (
            (mark_safe("<code>"), part, mark_safe("</code>"))
            if at % 2
            else ("", part, "")
            for at, part in enumerate(parts)
        ),
    )


@register.filter
def one_line(text: Any) -> str:
    """The first line of a text, without control characters."""
    return printable(str(text).partition("\n")[0])


@register.filter
def lines(text: Any) -> str:
    """A text of many lines, without other control characters."""
    return "\n".join(printable(line) for line in str(text).split("\n"))


@register.simple_tag
def page_url(visit: Any, model: str, key: Any) -> str:
    """The address of the page of one thing, where the visit is.

    That of the list for a thing whose key can't be read.
    """
    url: str = visit.url(model, "change", str(key)) if key else visit.url(model)
    return url
