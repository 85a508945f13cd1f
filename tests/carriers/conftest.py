from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.carriers import context
from tests.carriers.context import HERE, Observer, Odd
from tests.stores.datastore_fixtures import empty_store


@pytest.fixture
def carriers(settings: Any) -> Callable[..., None]:
    """Set CARRIERS to classes of `tests.carriers.context`."""

    def configured(*names: str, **changes: Any) -> None:
        paths = [name if "." in name else f"{HERE}.{name}" for name in names]
        settings.CLOUDTASK = {
            "CARRIERS": paths,
            "TRUSTED_MODULES": ["tests.carriers"],
            "TARGET": {
                "BACKEND": "cloudtask.targets.AppEngineTarget",
                "VERIFY": False,
            },
            **changes,
        }

    configured("Tenant")
    return configured


@pytest.fixture(autouse=True)
def _forgotten() -> None:
    context.seen.clear()
    Observer.notes.clear()
    Observer.error, Observer.captured = None, {"from": "here"}
    Odd.captured = Odd.restoring = None


@pytest.fixture
def in_tenant() -> Callable[[str], Any]:
    """Set the tenant of the code of a test."""

    def chosen(name: str | None) -> None:
        context.tenant.set(name)

    yield chosen
    context.tenant.set(None)


@pytest.fixture(params=["database", "datastore"])
def anywhere(request: pytest.FixtureRequest) -> dict[str, Any]:
    """The settings of each store."""
    if request.param == "database":
        return {}
    request.getfixturevalue("datastore_at")("datastore")
    return {"STORE": empty_store()}
