"""docs/explanation/guarantees.md covers every failpoint on the way of a call."""

from __future__ import annotations

import re

from cloudtask import failpoints
from tests.docs.blocks import ROOT

OF_A_CALL = {
    *("cancel", "enqueue", "execute", "failures"),
    *("outbox", "relay", "store", "unique"),
}


def test_the_page_names_each_failpoint_of_a_call_and_no_other() -> None:
    text = (ROOT / "docs/explanation/guarantees.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`([a-z]+\.[a-z_]+)`", text))
    points = {p for p in failpoints.POINTS if p.partition(".")[0] in OF_A_CALL}
    assert named - {"cloudtask.failpoints"} == points
