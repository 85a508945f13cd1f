"""Each promise of the security page names tests that are there."""

from __future__ import annotations

import re

from tests.docs.blocks import ROOT

PAGE = "docs/howto/security.md"


def test_the_tests_of_each_promise_are_there() -> None:
    text = (ROOT / PAGE).read_text()
    rows = text.partition("| promise | test |")[2].partition("\n\n")[0].splitlines()[2:]
    assert rows
    for row in rows:
        named = re.findall(r"`(tests/[\w/]+\.py)::(test_\w+)`", row)
        assert len(named) == row.count("`tests/") > 0, row
        for path, name in named:
            assert f"def {name}(" in (ROOT / path).read_text(), f"{path}::{name}"
