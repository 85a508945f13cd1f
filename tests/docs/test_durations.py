"""Pages that mention the duration of a setting give its default."""

from __future__ import annotations

import re

from django.test import override_settings

from cloudtask import conf
from tests.docs.blocks import ROOT, pages

# CLOUDTASK["LEASE"] (60 seconds ...), in code or not.
DEFAULT = re.compile(r'`(?:CLOUDTASK\[")?([A-Z_]+)(?:"\])?` \((\d+) (\w+)')
UNITS = {"days": 86_400, "minutes": 60, "seconds": 1}


def mentioned() -> set[tuple[str, str]]:
    """Keys of settings with the durations that pages give for them, as text."""
    texts = [(ROOT / page).read_text(encoding="utf-8") for page in pages()]
    found = DEFAULT.findall("\n".join(texts).replace("\n", " "))
    return {(key, f"{n} {unit}") for key, n, unit in found if unit in UNITS}


def test_durations_that_pages_mention_are_the_defaults() -> None:
    found = mentioned()
    assert {key for key, _ in found} >= {"MAX_AGE", "KEEP_FAILED", "LEASE"}
    with override_settings(CLOUDTASK={}):
        for key, text in found:
            number, unit = text.split()
            default = getattr(conf.settings(), key.lower()).total_seconds()
            assert default == int(number) * UNITS[unit], key
