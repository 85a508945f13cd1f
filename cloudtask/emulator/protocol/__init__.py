"""The language of the API: its messages, its names, and the errors that it answers."""

from cloudtask.emulator.protocol import errors, names
from cloudtask.emulator.protocol.messages import (
    Message,
    Version,
    copy_of,
    put_time,
    seconds_of,
    v2,
)

__all__ = [
    "Message",
    "Version",
    "copy_of",
    "errors",
    "names",
    "put_time",
    "seconds_of",
    "v2",
]
