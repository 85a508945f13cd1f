from __future__ import annotations

import pytest

from tests.acceptance.clouds import gcloud_tasks_emulator, our_emulator
from tests.acceptance.site import APP_ENGINE, HTTP, listening, served

DEPLOYMENTS = {
    "http": (our_emulator, HTTP),
    "app-engine": (our_emulator, APP_ENGINE),
    "http-gcloud-tasks-emulator": (gcloud_tasks_emulator, HTTP),
    "app-engine-gcloud-tasks-emulator": (gcloud_tasks_emulator, APP_ENGINE),
}


def _group(name: str) -> str:
    # One worker has all tests of a deployment, which is started once; and one worker
    # makes the environment of the other emulator.
    return "other" if name.endswith("emulator") else name


@pytest.fixture(
    scope="session",
    params=[
        pytest.param(value, id=name, marks=pytest.mark.xdist_group(_group(name)))
        for name, value in DEPLOYMENTS.items()
    ],
)
def site(request, tmp_path_factory):
    start_cloud, target = request.param
    folder = tmp_path_factory.mktemp("acceptance")
    with listening() as sock, start_cloud(folder, sock.getsockname()[1]) as cloud:
        master = {"ACCEPTANCE_DEFER_IN_MASTER": "yes"}
        with served(sock, cloud, target, folder, **master) as site:
            yield site
