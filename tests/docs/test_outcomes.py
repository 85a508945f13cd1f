"""Each list of outcomes has all of them, in the order of the code."""

from __future__ import annotations

import re

import pytest

from cloudtask.delivering.settling import Outcome
from cloudtask.emulator.dispatch.log import OUTCOMES
from tests.docs.blocks import ROOT

ALL = [outcome.value for outcome in Outcome]
# An unsettled delivery ends with an error, whose response has no outcome.
OF_THE_HEADER = [one for one in ALL if one != Outcome.UNSETTLED.value]

LISTS = {
    "docs/howto/observability.md": (r"`outcome` is one of (.*?)\. ", ALL),
    "docs/reference/glossary.md": (r": How a delivery ended: (.*?)\.", ALL),
    "CONTRIBUTING.md": (r"\| how a delivery ended: (.*?) \|", ALL),
    "docs/howto/emulator.md": (r"Its values are\s(.*?)\. ", OF_THE_HEADER),
}


@pytest.mark.parametrize("page", LISTS)
def test_a_page_lists_the_outcomes_of_the_code(page: str) -> None:
    pattern, outcomes = LISTS[page]
    text = (ROOT / page).read_text(encoding="utf-8")
    [found] = re.findall(pattern, text, re.DOTALL)
    assert re.findall(r"\w+", re.sub(r"\b(and|or)\b", "", found)) == outcomes


def test_the_emulator_has_words_for_each_outcome_of_the_header() -> None:
    assert list(OUTCOMES) == OF_THE_HEADER
