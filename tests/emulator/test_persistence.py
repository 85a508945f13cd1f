"""What `data` keeps, also from a process that is killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import pytest
from google.api_core import exceptions

from cloudtask.emulator import Emulator
from tests.emulator.conftest import FAST, QUEUE, client_of
from tests.support.waiting import wait_until

PARENT = "projects/p/locations/l"


def http(url: str, **fields: object) -> dict:
    return {"http_request": {"url": url}, **fields}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "tasks.sqlite3"


@contextmanager
def kept(data: Path, **options: object):
    """(emulator, client) on a data file."""
    with (
        Emulator(**{"queues": FAST, "data": data, **options}) as emulator,
        client_of(emulator.address) as client,
    ):
        yield emulator, client


def test_queued_tasks_survive_a_restart_in_order(data, sink) -> None:
    with kept(data) as (_, client):
        client.pause_queue(name=QUEUE)
        for number in range(20):
            client.create_task(parent=QUEUE, task=http(f"{sink.url}/{number}"))

    with kept(data, queues={"default": {"concurrency": 1}}) as (emulator, client):
        assert emulator.queues()[0].paused
        client.resume_queue(name=QUEUE)
        requests = sink.wait_for(20)

    assert [request.path for request in requests] == [f"/{n}" for n in range(20)]


def test_a_retry_goes_on_where_it_was(data, sink) -> None:
    retry = {"backoff": "1h..1h"}
    with kept(data, queues={"default": retry}) as (_, client):
        url = sink.answer("/flaky", 503, 200)
        name = client.create_task(parent=QUEUE, task=http(url)).name
        sink.wait_for(1)
        wait_until(lambda: client.get_task(name=name).response_count, "It was answered")
        before = client.get_task(name=name)

    with kept(data, queues={"default": retry}) as (_, client):
        assert client.get_task(name=name) == before
        client.run_task(name=name)
        second = sink.wait_for(2)[1].facts("cloudtasks")

    assert second["taskretrycount"] == "1"
    assert second["taskpreviousresponse"] == "503"


def test_used_names_and_deleted_queues_rest_after_a_restart(data, sink) -> None:
    gone = f"{PARENT}/queues/gone"
    with kept(data) as (emulator, client):
        client.create_task(parent=QUEUE, task=http(sink.url, name=f"{QUEUE}/tasks/a"))
        emulator.wait_idle()
        client.create_queue(parent=PARENT, queue={"name": gone})
        client.delete_queue(name=gone)

    with kept(data) as (_, client):
        with pytest.raises(exceptions.AlreadyExists):
            client.create_task(
                parent=QUEUE, task=http(sink.url, name=f"{QUEUE}/tasks/a")
            )
        with pytest.raises(exceptions.FailedPrecondition):
            client.create_queue(parent=PARENT, queue={"name": gone})


def test_queues_made_by_clients_keep_their_configuration(data) -> None:
    name = f"{PARENT}/queues/made"
    config = {
        "name": name,
        "rate_limits": {"max_dispatches_per_second": 3.5},
        "retry_config": {"max_attempts": -1, "max_doublings": 2},
        "http_target": {"uri_override": {"host": "h"}},
        "stackdriver_logging_config": {"sampling_ratio": 0.5},
    }
    with kept(data) as (_, client):
        client.create_queue(parent=PARENT, queue=config)
        client.purge_queue(name=name)
        before = client.get_queue(name=name)

    with kept(data) as (_, client):
        assert client.get_queue(name=name) == before


def test_purged_and_deleted_tasks_stay_away(data) -> None:
    with kept(data) as (_, client):
        client.pause_queue(name=QUEUE)
        for name in "ab":
            client.create_task(
                parent=QUEUE, task=http("http://h/", name=f"{QUEUE}/tasks/{name}")
            )
        client.delete_task(name=f"{QUEUE}/tasks/a")
        client.purge_queue(name=QUEUE)

    with kept(data) as (emulator, client):
        assert emulator.tasks() == []
        with pytest.raises(exceptions.NotFound, match="existed recently"):
            client.get_task(name=f"{QUEUE}/tasks/b")


def test_batches_are_not_repeated_after_a_restart(data) -> None:
    request = {
        "parent": QUEUE,
        "request_id": "same",
        "requests": [{"parent": QUEUE, "task": http("http://h/")}],
    }
    with kept(data) as (_, client):
        client.pause_queue(name=QUEUE)
        first = client.batch_create_tasks(request=request).operation.name

    with kept(data) as (emulator, client):
        assert client.batch_create_tasks(request=request).operation.name == first
        assert len(emulator.tasks()) == 1


def test_the_signing_key_is_kept(data) -> None:
    from urllib.request import urlopen

    def certs(emulator: Emulator) -> dict:
        with urlopen(f"{emulator.http_address}/oauth2/v1/certs") as response:
            return json.load(response)

    with kept(data) as (emulator, _):
        before = certs(emulator)

    with kept(data) as (emulator, _):
        assert certs(emulator) == before


def test_reset_empties_the_file(data) -> None:
    with kept(data) as (emulator, client):
        client.pause_queue(name=QUEUE)
        client.create_task(parent=QUEUE, task=http("http://h/"))
        emulator.reset()

    with kept(data) as (emulator, _):
        assert emulator.tasks() == []
        assert not emulator.queues()[0].paused


def test_a_file_in_use_is_refused(data) -> None:
    with kept(data), pytest.raises(OSError, match="another emulator uses it"):
        Emulator(data=data).start()


def test_a_file_of_something_else_is_refused(data) -> None:
    data.write_text("a diary" * 1000)

    with pytest.raises(OSError, match="can't be used"):
        Emulator(data=data).start()


@contextmanager
def process(data: Path, ready: Path, *options: str):
    """The command line on a data file, killed at the end; gives (process, address)."""
    command = [sys.executable, "-W", "error", "-m", "cloudtask.emulator", "--port=0"]
    command += [f"--data={data}", f"--announce={ready}", f"--queue={QUEUE}", *options]
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        while not ready.exists():
            assert child.poll() is None
            time.sleep(0.01)
        yield child, json.loads(ready.read_text())["address"]
    finally:
        child.kill()
        child.wait()


def test_what_was_acknowledged_before_a_kill_is_dispatched_after_it(
    data, tmp_path, sink
) -> None:
    acknowledged: set[str] = set()

    def create(address: str) -> None:
        with client_of(address) as client:
            while True:
                try:
                    task = client.create_task(
                        parent=QUEUE, task=http(sink.url), timeout=20
                    )
                except exceptions.GoogleAPICallError:
                    return
                acknowledged.add(task.name.rpartition("/")[2])

    with process(data, tmp_path / "1", "--no-rate-limits") as (child, address):
        threads = [threading.Thread(target=create, args=(address,)) for _ in range(4)]
        for thread in threads:
            thread.start()
        sink.wait_for(100)
        sink.hold.clear()  # from here on the queue fills
        wait_until(lambda: len(acknowledged) >= 300, "300 tasks are acknowledged")
        os.kill(child.pid, signal.SIGKILL)
        for thread in threads:
            thread.join()
    sink.hold.set()

    with process(data, tmp_path / "2", "--no-rate-limits") as (_, address):
        wait_until(lambda: acknowledged <= came_to(sink), "All are dispatched")
        with client_of(address) as client:
            wait_until(
                lambda: not list(client.list_tasks(parent=QUEUE)), "All are settled"
            )


def came_to(sink) -> set[str]:
    return {each.facts("cloudtasks")["taskname"] for each in sink.requests}
