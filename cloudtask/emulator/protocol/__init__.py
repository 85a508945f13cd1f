"""The language of the API: its messages, its names, and the errors that it answers."""

from cloudtask.emulator.protocol import errors, names
from cloudtask.emulator.protocol.messages import (
    VERSIONS,
    Message,
    Version,
    copy_of,
    has,
    put_time,
    request_class,
    seconds_of,
    v2,
)
from cloudtask.emulator.protocol.rules import Rule, rules_of
from cloudtask.emulator.protocol.translation import from_v2, to_v2

__all__ = [
    "VERSIONS",
    "Message",
    "Rule",
    "Version",
    "copy_of",
    "errors",
    "from_v2",
    "has",
    "names",
    "put_time",
    "request_class",
    "rules_of",
    "seconds_of",
    "to_v2",
    "v2",
]
