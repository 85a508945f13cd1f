"""Values that no column holds after the library has written it."""

from __future__ import annotations

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
