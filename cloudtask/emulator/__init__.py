"""A local Google Cloud Tasks: gRPC and REST, dispatching over HTTP.

    from cloudtask.emulator import Emulator

    with Emulator(target="http://127.0.0.1:8000") as emulator:
        os.environ["CLOUD_TASKS_EMULATOR_HOST"] = emulator.address

Imports nothing of the rest of cloudtask, and nothing of Django.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cloudtask.emulator.dispatch import Chaos, DispatchRecord, Tick
    from cloudtask.emulator.embedded import Emulator, QueueInfo

__all__ = ["Chaos", "DispatchRecord", "Emulator", "QueueInfo", "Tick"]

_MODULES = {
    "Chaos": "dispatch",
    "DispatchRecord": "dispatch",
    "Emulator": "embedded",
    "QueueInfo": "embedded",
    "Tick": "dispatch",
}


def __getattr__(name: str) -> Any:
    """Import a public name late: `__main__` then says which package is missing."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        value = getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    except ImportError as error:
        raise ImportError(
            f"{error}. Install what the emulator needs: "
            'pip install "django-cloudtask-defer[emulator]"'
        ) from error
    globals()[name] = value
    return value
