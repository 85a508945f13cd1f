"""Values that someone may write to a column or property, by the type of what it had."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

from cloudtask import codec, envelope
from tests.testapp.tasks import Bomb

NEVER_IMPORTED = "django.contrib.auth.management.commands.changepassword"
CLEAR = "\x1b[2J"  # what clears a terminal
_TEXTS = (
    codec.dumps(Bomb()).decode(),
    f'{{"$": ["class", "{NEVER_IMPORTED}:Command"]}}',
    f"{NEVER_IMPORTED}.Command",
    "os.system",
    "cloudtask.deferred.run",
    "tests.tampering.tasks.secret",
    f"a\r\n{CLEAR}CRITICAL forged",
    "",
    "x" * 70_000,
)


def hostile(before: Any, neighbours: list[Any]) -> Iterator[Any]:
    """What may take the place of `before`, beside NULL; `neighbours` are values of
    other rows and columns."""
    if isinstance(before, bool):
        yield not before
    elif isinstance(before, int):
        yield from (0, 1, before + 1, 2**31 - 1)
    elif isinstance(before, float):
        yield from (0.0, -1.0, 1e300)
    elif isinstance(before, datetime):
        yield from (before - timedelta(days=3000), before + timedelta(days=3000))
        yield datetime(1, 1, 2, tzinfo=UTC)
    elif isinstance(before, str):
        yield from _TEXTS
        yield from (before[:-1], before + "x", before.upper(), before * 2)
        yield codec.dumps_call((Bomb(),), {}).decode()
    elif isinstance(before, bytes):
        yield from (text.encode() for text in _TEXTS)
        yield from (before[:-1], before + b"x", before[: envelope.HEADER_SIZE])
        yield from (before[:10] + b"\0" + before[11:], before * 2)
        yield envelope.seal_value(b"[]", place=("elsewhere", "1", "x"))
    yield from (one for one in neighbours if one != before)


def is_shown(value: Any) -> bool:
    """Whether lists and pages must be looked at: only they show what a value says."""
    return isinstance(value, str) and CLEAR in value
