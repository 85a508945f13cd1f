"""The running emulator: gRPC, the HTTP side, and the engine behind both."""

from cloudtask.emulator.serving.engine import Engine
from cloudtask.emulator.serving.server import Server

__all__ = ["Engine", "Server"]
