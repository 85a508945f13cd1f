from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from django.test import override_settings

from cloudtask import conf
from cloudtask.transports.cloud import client
from tests.support.service import Service, serving

CLOUD = {
    "PROJECT": "p",
    "LOCATION": "l",
    "TRANSPORT": {"BACKEND": conf.CLOUD_TRANSPORT},
    "TARGET": {
        "BACKEND": "cloudtask.targets.HttpTarget",
        "URL": "https://app.example",
        "SERVICE_ACCOUNT": "tasks@p.iam.gserviceaccount.com",
    },
}


@pytest.fixture
def cloud_settings() -> Iterator[dict[str, Any]]:
    with override_settings(CLOUDTASK=CLOUD):
        yield CLOUD


@pytest.fixture(scope="session")
def _server() -> Iterator[Service]:
    with serving() as service:
        yield service


@pytest.fixture
def service(
    _server: Service, cloud_settings: Any, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Service]:
    """The server that misbehaves, as new, at the address that the client uses."""
    address = _server.address
    _server.__init__()  # type: ignore[misc]
    _server.address = address
    monkeypatch.delenv("TASKS_EMULATOR_HOST", raising=False)
    monkeypatch.setenv("CLOUD_TASKS_EMULATOR_HOST", address)
    client.batches.lacking.clear()
    yield _server
    client.batches.lacking.clear()
