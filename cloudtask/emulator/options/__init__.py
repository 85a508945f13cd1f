"""The choices of the person who starts an emulator: settings, and queues as written."""

from cloudtask.emulator.options.queues import (
    Declared,
    Options,
    Queues,
    declare,
    parse_options,
    read_options,
    read_queue_yaml,
    seconds,
)
from cloudtask.emulator.options.settings import DEFAULT_TARGET, Settings

__all__ = [
    "DEFAULT_TARGET",
    "Declared",
    "Options",
    "Queues",
    "Settings",
    "declare",
    "parse_options",
    "read_options",
    "read_queue_yaml",
    "seconds",
]
