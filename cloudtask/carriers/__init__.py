"""Carriers take context of the caller along with a call, and restore it around it.

`CLOUDTASK["CARRIERS"]` names them; docs/howto/context.md shows how to write one. The
carriers of a project must work. `Telemetry` only observes: its errors are logged.
"""

from __future__ import annotations

from cloudtask.carriers.capturing import MOST, capture, following
from cloudtask.carriers.chosen import chosen, made, state
from cloudtask.carriers.observing import enqueueing, gauge, note, observed, sending
from cloudtask.carriers.protocols import Carrier, Enqueueing, Language, Telemetry
from cloudtask.carriers.restoring import restored

__all__ = [
    "MOST",
    "Carrier",
    "Enqueueing",
    "Language",
    "Telemetry",
    "capture",
    "chosen",
    "enqueueing",
    "following",
    "gauge",
    "made",
    "note",
    "observed",
    "restored",
    "sending",
    "state",
]
