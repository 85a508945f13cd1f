"""`make demo`: it ends well, and whatever ends it, nothing is left running."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from cloudtask.datastore_emulator import VARIABLE
from tests.acceptance.processes import ROOT
from tests.stores.datastore_fixtures import KINDS
from tests.support.waiting import wait_until

pytestmark = pytest.mark.acceptance


@pytest.fixture
def demo(tmp_path):
    """Starts the demo with some cities; ends what a failed test leaves."""
    started = []
    environ = os.environ | {"ATLAS_OUT": str(tmp_path), "PYTHONUNBUFFERED": "1"}
    del environ["DJANGO_SETTINGS_MODULE"]  # that of the tests

    def start(cities, store="database", **variables):
        options = (f"--cities={cities}", f"--store={store}")
        with (tmp_path / "output").open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "example/demo.py", *options],
                cwd=ROOT,
                env=environ | variables,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        started.append(process)
        return process

    yield start
    for pid in [process.pid for process in started if process.poll() is None]:
        os.killpg(pid, signal.SIGKILL)
    for pid in processes_of(tmp_path):
        os.kill(pid, signal.SIGKILL)
    for process in started:
        process.wait()


def processes_of(folder):
    """The processes that were started with ATLAS_OUT in their environment."""
    mark = f"ATLAS_OUT={folder}".encode()
    found = []
    for environ in Path("/proc").glob("[0-9]*/environ"):
        try:
            if mark in environ.read_bytes().split(b"\0"):
                found.append(int(environ.parent.name))
        except OSError:
            continue  # it has ended, or is not ours
    return found


def said(folder):
    return (folder / "output").read_text()


def wait_until_deferred(process, folder):
    def look():
        assert process.poll() is None, said(folder)
        return "Deferred 5,000" in said(folder)

    wait_until(look, "Tasks are deferred")


@pytest.mark.exhaustive
def test_the_demo_ends_with_a_summary(demo, tmp_path):
    process = demo(cities=150)
    wait_until(lambda: process.poll() is not None, "The demo ends")
    assert process.returncode == 0, said(tmp_path)
    assert_all_was_shown(tmp_path)


@pytest.mark.exhaustive
@pytest.mark.datastore
@pytest.mark.parametrize("kind", KINDS)
def test_the_demo_shows_the_same_with_its_state_in_datastore(
    demo, tmp_path, emulators, kind
):
    process = demo(150, "datastore", **{VARIABLE: emulators.address(kind)})
    wait_until(lambda: process.poll() is not None, "The demo ends")
    assert process.returncode == 0, said(tmp_path)
    assert f"the emulator at {emulators.address(kind)}" in said(tmp_path)
    assert_all_was_shown(tmp_path)


def assert_all_was_shown(folder):
    for text in (
        "150 of 150 cities",
        "largest: Shanghai (CN)",
        "attempt 1 -> 500",
        "attempt 2 -> 200",
        "0 failed, 0 skipped, 0 left out",
        "finalize ran 1 time",
        "Why nothing was lost",
        "Open and read next",
        "A task of 'places' was back after",
        "/admin/cloudtask/overview/    account: demo",
    ):
        assert text in said(folder)
    assert processes_of(folder) == []


def test_without_an_emulator_the_demo_says_how_to_get_one(demo, tmp_path):
    process = demo(150, "datastore", PATH="", **{VARIABLE: ""})
    assert process.wait() == 1
    assert "gcloud components install cloud-firestore-emulator" in said(tmp_path)
    assert "Making a database" not in said(tmp_path)


@pytest.mark.exhaustive
@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="needs /proc")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_demo_leaves_nothing_running(demo, tmp_path, number):
    process = demo(cities=5000)
    wait_until_deferred(process, tmp_path)
    assert len(processes_of(tmp_path)) > 3
    os.killpg(process.pid, number)
    wait_until(lambda: process.poll() is not None, "The demo ends")
    assert process.returncode == 130, said(tmp_path)
    assert "Nothing is left running" in said(tmp_path)
    assert processes_of(tmp_path) == []


@pytest.mark.exhaustive
@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="needs /proc")
def test_a_demo_whose_server_dies_says_so_and_leaves_nothing_running(demo, tmp_path):
    process = demo(cities=5000)
    wait_until_deferred(process, tmp_path)
    masters = [pid for pid in processes_of(tmp_path) if is_emulator(pid)]
    os.kill(masters[0], signal.SIGKILL)
    wait_until(lambda: process.poll() is not None, "The demo ends")
    assert process.returncode == 1
    assert "emulator ended" in said(tmp_path)
    assert processes_of(tmp_path) == []


def is_emulator(pid):
    return b"cloudtask_emulator" in Path(f"/proc/{pid}/cmdline").read_bytes()
