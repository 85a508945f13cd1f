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


def params():
    """Each deployment is started once, in one process, for all of its tests."""
    for name, deployment in DEPLOYMENTS.items():
        marks = [pytest.mark.xdist_group(name)]
        if name != "http":
            marks.append(pytest.mark.exhaustive)
        yield pytest.param(deployment, id=name, marks=marks)


@pytest.fixture(scope="session", params=params())
def site(request, tmp_path_factory):
    start_cloud, target = request.param
    folder = tmp_path_factory.mktemp("acceptance")
    with listening() as sock, start_cloud(folder, sock.getsockname()[1]) as cloud:
        master = {"ACCEPTANCE_DEFER_IN_MASTER": "yes"}
        with served(sock, cloud, target, folder, **master) as site:
            yield site
