"""`Emulator`, as tests use it."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import time

import pytest

from cloudtask.emulator import Emulator
from tests.emulator.conftest import FAST, QUEUE, client_of
from tests.support.waiting import PATIENCE, wait_until


def http(url: str) -> dict:
    return {"http_request": {"url": url}}


def test_it_starts_and_stops_many_times_and_leaves_no_thread() -> None:
    emulator = Emulator()
    before = threading.active_count()
    for _ in range(5):
        emulator.start()
        host, port = emulator.address.split(":")
        with socket.create_connection((host, int(port))):
            pass
        emulator.stop()
        with pytest.raises(OSError, match=r"refused"):
            socket.create_connection((host, int(port)))

    assert not [t for t in threading.enumerate() if t.name == "cloudtask-emulator"]
    assert threading.active_count() <= before + 1  # gRPC keeps one of its own


def test_starting_and_stopping_twice_is_the_same_as_once() -> None:
    emulator = Emulator()
    assert emulator.start() is emulator.start()
    address = emulator.address
    assert emulator.start().address == address
    emulator.stop()
    emulator.stop()

    with pytest.raises(RuntimeError, match="not started"):
        emulator.address  # noqa: B018


def test_two_run_side_by_side(sink) -> None:
    with Emulator(queues=FAST) as one, Emulator(queues=FAST) as two:
        assert one.address != two.address
        with client_of(one.address) as client:
            client.create_task(parent=QUEUE, task=http(sink.url))
        sink.wait_for(1)
        one.wait_idle()
        assert len(one.dispatches()) == 1
        assert two.dispatches() == []


def test_a_taken_port_is_an_error_and_leaves_nothing() -> None:
    with Emulator() as first:
        port = int(first.address.rpartition(":")[2])
        second = Emulator(port=port)
        with pytest.raises(OSError, match=str(port)):
            second.start()
    second.start()
    assert second.address.endswith(f":{port}")
    second.stop()


def test_wrong_options_are_refused_at_once() -> None:
    with pytest.raises(ValueError, match="rate"):
        Emulator(queues={"default": {"rate": "fast"}})
    with pytest.raises(ValueError, match="list of names"):
        Emulator(queues=QUEUE)
    with pytest.raises(ValueError, match="chaos"):
        Emulator(chaos="everything=1")
    with pytest.raises(ValueError, match="other machines"):
        Emulator(host="0.0.0.0")


def test_undeclared_queues_are_not_there(client) -> None:
    from google.api_core.exceptions import NotFound

    with pytest.raises(NotFound):
        client.get_queue(name="projects/p/locations/l/queues/other")


def test_reset_forgets_all_but_the_declared_queues(emulator, client, sink) -> None:
    other = "projects/p/locations/l/queues/other"
    client.create_queue(parent="projects/p/locations/l", queue={"name": other})
    client.pause_queue(name=QUEUE)
    client.create_task(parent=QUEUE, task=http(sink.url) | {"name": f"{QUEUE}/tasks/a"})
    client.run_task(name=f"{QUEUE}/tasks/a")
    sink.wait_for(1)

    emulator.reset()

    assert [info.name for info in emulator.queues()] == [QUEUE]
    assert not emulator.queues()[0].paused
    assert emulator.tasks() == []
    assert emulator.dispatches() == []
    client.create_task(parent=QUEUE, task=http(sink.url) | {"name": f"{QUEUE}/tasks/a"})
    sink.wait_for(2)


def test_reset_abandons_what_is_under_way(emulator, client, sink) -> None:
    sink.answer("/", 500)
    sink.hold.clear()
    client.create_task(parent=QUEUE, task=http(sink.url))
    sink.wait_for(1)

    emulator.reset()
    sink.hold.set()
    emulator.wait_idle()

    assert emulator.dispatches() == []
    assert emulator.queues()[0].running == 0


def test_wait_idle_waits_for_retries_but_not_for_the_future(
    emulator, client, sink
) -> None:
    sink.answer("/flaky", 500, 500, 200)
    later = {"schedule_time": {"seconds": int(time.time()) + 3600}}
    client.create_task(parent=QUEUE, task=http(sink.url) | later)
    client.create_task(parent=QUEUE, task=http(sink.url + "/flaky"))

    emulator.wait_idle()

    assert len(sink.requests) == 3
    assert emulator.queues()[0].depth == 1
    with pytest.raises(TimeoutError, match="default"):
        emulator.wait_idle(0.05, scheduled=True)


def test_the_log_tells_each_attempt(emulator, client, sink) -> None:
    url = sink.answer("/flaky", 500, 200)
    name = client.create_task(parent=QUEUE, task=http(url)).name

    emulator.wait_idle()

    first, second = emulator.dispatches(name)
    assert emulator.dispatches(name.rpartition("/")[2]) == [first, second]
    assert (first.attempt, first.status, first.verdict) == (1, 500, "retry")
    assert (second.attempt, second.status, second.verdict) == (2, 200, "done")
    assert second.headers["X-CloudTasks-TaskPreviousResponse"] == "500"
    assert second.queue == "default"
    assert f"attempt 1 POST {url} -> 500 in" in str(first)


def test_a_listener_hears_of_each_dispatch(start, connect, sink) -> None:
    heard = []
    emulator = start(queues=FAST, on_dispatch=heard.append)
    connect(emulator).create_task(parent=QUEUE, task=http(sink.url))

    emulator.wait_idle()

    assert heard == emulator.dispatches()
    assert len(heard) == 1


@pytest.mark.parametrize(("rate_limits", "held_back"), [(True, 4), (False, 0)])
def test_rate_limits_can_be_left_out(
    start, connect, sink, rate_limits, held_back
) -> None:
    queues = {"default": {"rate": "1/d", "burst": 1}}
    emulator = start(queues=queues, rate_limits=rate_limits)
    client = connect(emulator)
    for _ in range(5):
        client.create_task(parent=QUEUE, task=http(sink.url))

    sink.wait_for(5 - held_back)

    def depth() -> int:
        return emulator.queues()[0].depth

    wait_until(lambda: depth() == held_back, f"{held_back} tasks are held back")


def test_a_listener_that_fails_stops_nothing(start, connect, sink, caplog) -> None:
    def fail(record: object) -> None:
        raise BrokenPipeError

    emulator = start(queues={"default": {"concurrency": 1}}, on_dispatch=fail)
    client = connect(emulator)
    for _ in range(3):
        client.create_task(parent=QUEUE, task=http(sink.url))

    emulator.wait_idle()

    assert len(sink.requests) == 3
    assert "The listener failed" in caplog.text


def test_an_emulator_left_running_ends_with_its_process() -> None:
    code = "from cloudtask.emulator import Emulator; print(Emulator().start().address)"
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )

    assert result.returncode == 0
    assert result.stderr == ""
