"""The emulator beside manage.py."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from urllib.request import urlopen

import pytest

from cloudtask import sandbox

QUEUE = "projects/local/locations/local/queues/default"


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        sandbox.HOST_VARIABLE,
        sandbox.HTTP_VARIABLE,
        sandbox.PROJECT_VARIABLE,
        "DJANGO_SETTINGS_MODULE",
        "RUN_MAIN",
    ):
        monkeypatch.delenv(name, raising=False)


def answers(address: str) -> bool:
    host, _, port = address.rpartition(":")
    with socket.socket() as probe:
        return probe.connect_ex((host, int(port))) == 0


def test_the_emulator_lives_as_long_as_the_block() -> None:
    with sandbox.emulator(port=0, quiet=True) as address:
        assert os.environ[sandbox.HOST_VARIABLE] == address
        assert os.environ[sandbox.PROJECT_VARIABLE] == "local"
        assert answers(address)
        with urlopen(f"{os.environ[sandbox.HTTP_VARIABLE]}/healthz") as response:
            assert response.status == 200

    assert not answers(address)
    assert sandbox.HOST_VARIABLE not in os.environ
    assert sandbox.HTTP_VARIABLE not in os.environ
    assert sandbox.PROJECT_VARIABLE not in os.environ


def test_the_environment_is_put_back_after_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(sandbox.HOST_VARIABLE, "before:1")
    monkeypatch.setenv(sandbox.PROJECT_VARIABLE, "mine")

    def run() -> None:
        with sandbox.emulator(port=0, quiet=True) as address:
            assert os.environ[sandbox.PROJECT_VARIABLE] == "mine"
            raise KeyError(address)

    with pytest.raises(KeyError) as caught:
        run()

    (address,) = caught.value.args
    assert os.environ[sandbox.HOST_VARIABLE] == "before:1"
    assert not answers(address)


def test_a_taken_default_port_is_passed_over() -> None:
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            taken.bind(("127.0.0.1", sandbox.DEFAULT_PORT))
            taken.listen()
        except OSError:
            """Somebody else has it, which is as good."""
        with sandbox.emulator(quiet=True) as address:
            assert address != f"127.0.0.1:{sandbox.DEFAULT_PORT}"
            assert answers(address)


def test_an_emulator_that_does_not_start_is_an_error() -> None:
    before = dict(os.environ)
    with (
        pytest.raises(RuntimeError, match="status 2"),
        sandbox.emulator(port=0, target="nowhere"),
    ):
        pytest.fail("it must not get here")

    assert dict(os.environ) == before


def test_the_reloaded_process_starts_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUN_MAIN", "true")
    monkeypatch.setenv(sandbox.HOST_VARIABLE, "the.parents:1")

    with sandbox.emulator() as address:
        assert address == "the.parents:1"
    sandbox.start_emulators()
    sandbox.stop_emulators()

    assert os.environ[sandbox.HOST_VARIABLE] == "the.parents:1"


def test_start_and_stop_as_with_djangae(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent.parent))

    sandbox.start_emulators(persist_data=True, tasks_port=0)
    address = os.environ[sandbox.HOST_VARIABLE]
    sandbox.start_emulators(tasks_port=0)
    assert os.environ[sandbox.HOST_VARIABLE] == address
    assert answers(address)
    assert (tmp_path / sandbox.DEFAULT_DATA).exists()
    sandbox.stop_emulators()
    sandbox.stop_emulators()

    assert not answers(address)
    assert sandbox.HOST_VARIABLE not in os.environ


def test_only_tasks_can_be_asked_for() -> None:
    with pytest.raises(ValueError, match="tasks"):
        sandbox.start_emulators(emulators=("datastore", "tasks"))


@pytest.mark.parametrize(
    ("arguments", "port"),
    [
        ("manage.py runserver", 8000),
        ("manage.py runserver 8080", 8080),
        ("manage.py runserver 0.0.0.0:8081", 8081),
        ("manage.py runserver --noreload [::1]:8082", 8082),
        ("manage.py test 8083", 8000),
        ("manage.py", 8000),
    ],
)
def test_the_target_is_where_runserver_will_listen(arguments: str, port: int) -> None:
    assert sandbox.runserver_port(arguments.split()) == port


MANAGE = """
import os, sys
sys.path.insert(0, {root!r})
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.settings")
from cloudtask import sandbox
if __name__ == "__main__":
    from django.core.management import execute_from_command_line
    with sandbox.emulator(port=0):
        print(os.environ["CLOUD_TASKS_EMULATOR_HOST"], flush=True)
        execute_from_command_line(sys.argv)
"""


@pytest.fixture
def manage(tmp_path: Path) -> list[str]:
    path = tmp_path / "manage.py"
    path.write_text(MANAGE.format(root=str(Path(__file__).parent.parent)))
    return [sys.executable, str(path)]


def test_around_manage_py(manage: list[str]) -> None:
    result = subprocess.run(
        [*manage, "check"], capture_output=True, text=True, check=False, timeout=60
    )

    assert result.returncode == 0, result.stderr
    assert "Queue: projects/local/locations/local/queues/default" in result.stdout
    assert "no issues" in result.stdout


def test_a_killed_parent_takes_the_emulator_along(manage: list[str]) -> None:
    process = subprocess.Popen(
        [*manage, "shell", "-c", "import time; time.sleep(60)"],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    address = next(line for line in process.stdout if line.startswith("127.")).strip()
    assert answers(address)

    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()

    give_up = time.monotonic() + 15
    while answers(address):
        assert time.monotonic() < give_up, "it outlived its parent"
        time.sleep(0.02)
