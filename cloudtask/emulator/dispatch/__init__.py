"""Deliveries: the request of an attempt, the client that sends it, and the log."""

from cloudtask.emulator.dispatch.chaos import Chaos, parse_chaos
from cloudtask.emulator.dispatch.dispatcher import Dispatcher
from cloudtask.emulator.dispatch.log import DispatchLog, DispatchRecord, without_secrets
from cloudtask.emulator.dispatch.request import Target
from cloudtask.emulator.dispatch.ticker import Tick, Ticker

__all__ = [
    "Chaos",
    "DispatchLog",
    "DispatchRecord",
    "Dispatcher",
    "Target",
    "Tick",
    "Ticker",
    "parse_chaos",
    "without_secrets",
]
