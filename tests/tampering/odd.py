"""Values that no column holds after the library has written it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

ODD: list[Any] = [
    None,
    "",
    "text",
    b"bytes",
    -1,
    1.5,
    float("inf"),
    2**31,
    2**63 - 1,
    "2026-13-45 99:99:99",
    "0001-01-01 00:00:00",
    "9999-12-31 23:59:59.999999",
    "x" * 70_000,
    ("CAST(%s AS TEXT)", b"\xff\xfe"),  # no UTF-8
]

# For properties of entities, which hold any value.
ODD_PROPERTIES: list[Any] = [
    "text",
    b"bytes",
    -1,
    1.5,
    True,
    float("inf"),
    2**63 - 1,
    [1, "a"],
    datetime(1, 1, 2, tzinfo=UTC),
    datetime(9999, 12, 31, tzinfo=UTC),
    None,
]
