"""The running emulator: gRPC, the HTTP side, and the engine behind both."""

from cloudtask.emulator.serving.engine import Engine
from cloudtask.emulator.serving.server import PortTaken, Server

__all__ = ["Engine", "PortTaken", "Server"]
