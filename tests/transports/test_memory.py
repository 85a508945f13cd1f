from __future__ import annotations

from collections.abc import Iterator

import pytest

from cloudtask.transports import Transport, memory
from cloudtask.transports.memory import MemoryTransport
from tests.transports.contract import Names, TransportContract


class TestMemoryTransport(TransportContract):
    @pytest.fixture
    def transport(self) -> Iterator[Transport]:
        memory.queue().clear()
        yield MemoryTransport({})
        memory.queue().clear()

    @pytest.fixture
    def names(self) -> Names:
        return lambda queue: [
            waiting.message.name
            for waiting in memory.queue()
            if waiting.message.queue == queue
        ]
