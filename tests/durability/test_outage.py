"""Cloud Tasks is unavailable: its port is closed, and opens again later."""

from __future__ import annotations

import pytest

from cloudtask.emulator import Emulator
from cloudtask.models import OutboxMessage
from tests.durability.sites import QUEUES, Site, reserved_port
from tests.testapp.models import Author

pytestmark = pytest.mark.django_db(databases="__all__")

MANY = 1000


def test_all_that_was_deferred_in_an_outage_runs_after_it(committed):
    with reserved_port() as closed, reserved_port() as handler:
        emulator = Emulator(target=f"http://127.0.0.1:{handler}", queues=QUEUES)
        site = Site(emulator, handler, address=f"127.0.0.1:{closed}")
        assert site.run("defer_many_times", "plain", MANY) == 0
        assert OutboxMessage.objects.count() == MANY
        assert site.run("relay", 1.0) == 0
        assert OutboxMessage.objects.count() == MANY

        with emulator:
            site.setup["emulator"] = emulator.address
            try:
                site.serve()
                assert site.run("relay", 2.0) == 0
                site.drain()
            finally:
                site.stop()

    assert not OutboxMessage.objects.exists()
    assert Author.objects.count() == MANY
