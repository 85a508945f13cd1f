"""The choices of the person who starts an emulator: settings, and queues as written."""

from cloudtask.emulator.options.queues import (
    Options,
    Queues,
    declare,
    parse_options,
    read_options,
    read_queue_yaml,
)
from cloudtask.emulator.options.settings import (
    DEFAULT_PORT,
    DEFAULT_TARGET,
    Settings,
    Write,
    add_arguments,
    settings_from,
)

__all__ = [
    "DEFAULT_PORT",
    "DEFAULT_TARGET",
    "Options",
    "Queues",
    "Settings",
    "Write",
    "add_arguments",
    "declare",
    "parse_options",
    "read_options",
    "read_queue_yaml",
    "settings_from",
]
