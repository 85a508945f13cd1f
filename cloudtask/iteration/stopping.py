"""Whether this process was asked to stop: a shard then hands over at once."""

from __future__ import annotations

import signal
import threading
from typing import Any

_asked = threading.Event()


def asked() -> bool:
    """Whether SIGTERM has come."""
    return _asked.is_set()


def hand_over_on_sigterm() -> None:
    """Notice SIGTERM from now on, and pass it to the handler that was there.

    Servers run requests after SIGTERM to their end; a shard would run for minutes.
    Python lets only the main thread do this; elsewhere it does nothing. Servers whose
    requests run in threads call it in a hook of their own: see docs/howto/iterate.md.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    before = signal.getsignal(signal.SIGTERM)
    # None: a handler that was not installed from Python can't be passed on to.
    if before is None or getattr(before, "is_of_cloudtask", False):
        return

    def noticed(number: int, frame: Any) -> None:
        _asked.set()
        if callable(before):
            before(number, frame)
        elif before == signal.SIG_DFL:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            signal.raise_signal(signal.SIGTERM)

    noticed.is_of_cloudtask = True  # type: ignore[attr-defined]
    signal.signal(signal.SIGTERM, noticed)
