"""A task that outlives gunicorn's --timeout, with gunicorn's ordinary workers."""

from __future__ import annotations

import pytest

from tests.acceptance.clouds import our_emulator
from tests.acceptance.site import HTTP, listening, served
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.acceptance, pytest.mark.exhaustive]

SYNC = ("--worker-class=sync", "--timeout=6")


@pytest.fixture
def site(tmp_path):
    with (
        listening() as sock,
        our_emulator(tmp_path, sock.getsockname()[1]) as cloud,
        served(sock, cloud, HTTP, tmp_path, SYNC) as site,
    ):
        yield site


def test_an_attempt_says_that_gunicorn_ended_its_worker_and_where_it_hung(site):
    receipt = site.defer("hang", "never done")
    (failed,) = wait_until(
        lambda: site.leftovers()["failed"], "The task is kept as failed", site.tail
    )

    assert failed["key"] == receipt["id"]
    assert failed["attempts"] == 2
    assert "gunicorn ended this worker" in failed["error"]
    assert "--timeout" in failed["error"]
    assert "in hang\n    time.sleep(600)" in failed["traceback"]
    assert [entry["attempt"] for entry in site.entries("never done")] == [1, 2]
