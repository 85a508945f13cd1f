"""The test that docs/howto/emulator.md shows, run as it stands there."""

from __future__ import annotations

from tests.docs.blocks import executed

page = executed("docs/howto/emulator.md", "def emulator(")
emulator = page["emulator"]
test_a_charge_is_tried_again = page["test_a_charge_is_tried_again"]
