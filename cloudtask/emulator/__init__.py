"""A local Google Cloud Tasks: the gRPC API v2, dispatching over HTTP.

    from cloudtask.emulator import Emulator

    with Emulator(target="http://127.0.0.1:8000") as emulator:
        os.environ["CLOUD_TASKS_EMULATOR_HOST"] = emulator.address

Imports nothing of the rest of cloudtask, and nothing of Django.
"""

from cloudtask.emulator.chaos import Chaos
from cloudtask.emulator.dispatch_log import DispatchRecord
from cloudtask.emulator.embedded import Emulator, QueueInfo

__all__ = ["Chaos", "DispatchRecord", "Emulator", "QueueInfo"]
