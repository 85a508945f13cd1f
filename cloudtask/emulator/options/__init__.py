"""The choices of the person who starts an emulator: settings, and queues as written."""

from cloudtask.emulator.options.queues import (
    Declared,
    Options,
    Queues,
    declare,
    read_queue_yaml,
)
from cloudtask.emulator.options.settings import DEFAULT_TARGET, Settings, is_loopback

__all__ = [
    "DEFAULT_TARGET",
    "Declared",
    "Options",
    "Queues",
    "Settings",
    "declare",
    "is_loopback",
    "read_queue_yaml",
]
