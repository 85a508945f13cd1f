"""The emulator beside manage.py."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path
from urllib.request import urlopen

import pytest
from django.core.management import CommandError, call_command

from cloudtask import sandbox
from cloudtask.exceptions import ConfigurationError
from cloudtask.sandbox import process
from cloudtask.stores.datastore import DatastoreStore
from tests.support.emulators import Emulators
from tests.support.waiting import PATIENCE, wait_until

QUEUE = "projects/local/locations/local/queues/default"


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        sandbox.HOST_VARIABLE,
        sandbox.HTTP_VARIABLE,
        sandbox.TARGET_VARIABLE,
        sandbox.PROJECT_VARIABLE,
        "DJANGO_SETTINGS_MODULE",
        "RUN_MAIN",
        "WERKZEUG_RUN_MAIN",
        "GAE_ENV",
        "GAE_APPLICATION",
        "K_SERVICE",
        "CLOUD_RUN_JOB",
    ):
        monkeypatch.delenv(name, raising=False)


def answers(address: str) -> bool:
    host, _, port = address.rpartition(":")
    with socket.socket() as probe:
        return probe.connect_ex((host, int(port))) == 0


def test_the_emulator_lives_as_long_as_the_block() -> None:
    with sandbox.emulator(commands=None, port=0, quiet=True) as address:
        assert os.environ[sandbox.HOST_VARIABLE] == address
        assert os.environ[sandbox.PROJECT_VARIABLE] == "local"
        assert answers(address)
        with urlopen(f"{os.environ[sandbox.HTTP_VARIABLE]}/healthz") as response:
            assert response.status == 200

    assert not answers(address)
    assert sandbox.HOST_VARIABLE not in os.environ
    assert sandbox.HTTP_VARIABLE not in os.environ
    assert sandbox.TARGET_VARIABLE not in os.environ
    assert sandbox.PROJECT_VARIABLE not in os.environ


def test_the_environment_is_put_back_after_an_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(sandbox.HOST_VARIABLE, "before:1")
    monkeypatch.setenv(sandbox.PROJECT_VARIABLE, "mine")

    def run() -> None:
        with sandbox.emulator(commands=None, port=0, quiet=True) as address:
            assert os.environ[sandbox.PROJECT_VARIABLE] == "mine"
            raise KeyError(address)

    with pytest.raises(KeyError) as caught:
        run()

    (address,) = caught.value.args
    assert os.environ[sandbox.HOST_VARIABLE] == "before:1"
    assert not answers(address)


@pytest.mark.parametrize(
    ("target", "rest"),
    [
        ("http://127.0.0.1:8000", ""),
        (
            "http://127.0.0.1:8042",
            " CLOUDTASK_EMULATOR_TARGET=http://127.0.0.1:8042",
        ),
    ],
)
def test_the_emulator_says_what_another_shell_exports(
    capfd: pytest.CaptureFixture[str], target: str, rest: str
) -> None:
    with sandbox.emulator(commands=None, port=0, target=target) as address:
        pass

    exports = f"export CLOUD_TASKS_EMULATOR_HOST={address}{rest}\n"
    assert capfd.readouterr().out.count(exports) == 1


@pytest.mark.xdist_group("default port")  # two processes could choose the same
def test_a_taken_default_port_is_passed_over() -> None:
    with socket.socket() as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            taken.bind(("127.0.0.1", process.DEFAULT_PORT))
            taken.listen()
        except OSError:
            """Somebody else has it, which is as good."""
        with sandbox.emulator(commands=None, quiet=True) as address:
            assert address != f"127.0.0.1:{process.DEFAULT_PORT}"
            assert answers(address)


def test_a_port_that_is_taken_before_the_emulator_has_it_is_passed_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        lost = taken.getsockname()[1]
        monkeypatch.setattr(process, "_free_port", iter([lost, 0]).__next__)
        with sandbox.emulator(commands=None, quiet=True) as address:
            assert address != f"127.0.0.1:{lost}"
            assert answers(address)


def test_a_port_in_use_is_named_by_the_emulator_that_wanted_it(
    capfd: pytest.CaptureFixture[str],
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with (
            pytest.raises(RuntimeError, match="its output has the reason"),
            sandbox.emulator(commands=None, port=port),
        ):
            pytest.fail("it must not get here")

    assert f"Port {port} of 127.0.0.1 is in use. The emulator" in capfd.readouterr().err


def test_a_port_of_runserver_in_use_is_named(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        monkeypatch.setattr(sys, "argv", ["manage.py", "runserver", str(port)])
        with sandbox.emulator(port=0, quiet=True):
            pass

    named = f"Port {port} of 127.0.0.1 is in use, and `manage.py runserver` needs it."
    assert named in caplog.text


def test_manage_py_ends_without_a_traceback_when_no_emulator_starts(
    tmp_path: Path,
) -> None:
    said = ending(tmp_path, "with sandbox.emulator(target='nowhere'):")

    assert "The target 'nowhere' must start with http" in said
    assert said.splitlines()[-1].startswith("The Cloud Tasks emulator ended with")
    assert "Traceback" not in said


def test_a_project_that_has_not_installed_the_app_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = "'cloudtask' is not in INSTALLED_APPS.*Add 'cloudtask' to INSTALLED_APPS"
    (tmp_path / "without.py").write_text(f"SECRET_KEY = {'s' * 50!r}\n")

    said = ending(tmp_path, "with sandbox.emulator():", settings="without")
    assert re.fullmatch(told + r"\.\n", said)

    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("DJANGO_SETTINGS_MODULE", "without")
    with (
        pytest.raises(ConfigurationError, match=told),
        sandbox.emulator(commands=None, port=0),
    ):
        pytest.fail("it must not get here")


def ending(folder: Path, beginning: str, *, settings: str = "") -> str:
    """What `manage.py runserver` prints whose emulator does not start."""
    text = f"from cloudtask import sandbox\n{beginning}\n    print('served')\n"
    (folder / "manage.py").write_text(text)
    result = subprocess.run(
        [sys.executable, "manage.py", "runserver", "0"],
        env=os.environ | ({"DJANGO_SETTINGS_MODULE": settings} if settings else {}),
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=PATIENCE,
    )
    assert result.returncode == 1
    return result.stdout


def test_an_emulator_that_does_not_start_is_an_error() -> None:
    before = dict(os.environ)
    with (
        pytest.raises(RuntimeError, match="status 2"),
        sandbox.emulator(commands=None, port=0, target="nowhere"),
    ):
        pytest.fail("it must not get here")

    assert dict(os.environ) == before


@pytest.mark.parametrize("variable", ["RUN_MAIN", "WERKZEUG_RUN_MAIN"])
def test_the_reloaded_process_starts_none(
    monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv(variable, "true")
    monkeypatch.setenv(sandbox.HOST_VARIABLE, "the.parents:1")

    with sandbox.emulator(commands=None) as address:
        assert address == "the.parents:1"
    sandbox.start_emulators()
    sandbox.stop_emulators()

    assert os.environ[sandbox.HOST_VARIABLE] == "the.parents:1"


@pytest.mark.parametrize("command", ["runserver", "runserver_plus", "testserver"])
def test_commands_that_serve_have_one(
    monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.setattr(sys, "argv", ["manage.py", command])

    with sandbox.emulator(port=0, quiet=True) as address:
        assert answers(address)


@pytest.mark.parametrize(
    "arguments", ["", "cloudtask_relay", "migrate", "help runserver", "test runserver"]
)
def test_other_commands_have_none(
    monkeypatch: pytest.MonkeyPatch, arguments: str
) -> None:
    monkeypatch.setattr(sys, "argv", ["manage.py", *arguments.split()])
    monkeypatch.setattr(process, "_NEEDED", ("not_installed_anywhere",))
    before = dict(os.environ)

    with sandbox.emulator() as address:
        assert address == ""
        assert dict(os.environ) == before


@pytest.mark.parametrize("program", ["load.py", "/lib/pytest/__main__.py"])
def test_scripts_have_what_they_ask_for(
    monkeypatch: pytest.MonkeyPatch, program: str
) -> None:
    monkeypatch.setattr(sys, "argv", [program, "tests"])

    with sandbox.emulator(port=0, quiet=True) as address:
        assert answers(address)


def test_other_commands_can_be_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["manage.py", "shell"])

    with sandbox.emulator(commands=("shell",), port=0, quiet=True) as address:
        assert answers(address)
    monkeypatch.setattr(sys, "argv", ["manage.py", "runserver"])
    with sandbox.emulator(commands=("shell",)) as address:
        assert address == ""


@pytest.mark.parametrize(
    "variable", ["GAE_ENV", "GAE_APPLICATION", "K_SERVICE", "CLOUD_RUN_JOB"]
)
def test_none_in_the_cloud(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, variable: str
) -> None:
    monkeypatch.setenv(variable, "standard")

    with caplog.at_level("INFO"), sandbox.emulator(commands=None) as address:
        assert address == ""
        assert sandbox.HOST_VARIABLE not in os.environ
    assert [each.levelname for each in caplog.records] == ["INFO"]
    assert variable in caplog.text
    with pytest.raises(RuntimeError, match=variable):
        sandbox.start_emulators()


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "_NEEDED", ("not_installed_anywhere",))
    monkeypatch.setattr(sys, "argv", ["manage.py", "runserver"])
    advice = r'not_installed_anywhere.*pip install "django-cloudtask-defer\[emulator\]"'

    with pytest.raises(SystemExit, match=advice), sandbox.emulator():
        pytest.fail("it must not get here")
    with pytest.raises(SystemExit, match=advice):
        sandbox.start_emulators()
    monkeypatch.setattr(sys, "argv", ["serve.py"])
    with pytest.raises(RuntimeError, match=advice), sandbox.emulator():
        pytest.fail("it must not get here")


@pytest.mark.parametrize(
    "program",
    [
        "import runpy; runpy.run_module('cloudtask.emulator', run_name='__main__')",
        "from cloudtask.emulator import Emulator",
    ],
)
def test_a_missing_extra_is_named_by_the_emulator(program: str) -> None:
    result = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.modules['aiohttp'] = None; {program}"],
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
        cwd=Path(__file__).parent.parent,
    )

    assert result.returncode == 1
    last = result.stderr.strip().splitlines()[-1]
    assert "aiohttp" in last
    assert last.endswith('pip install "django-cloudtask-defer[emulator]"')


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


def test_no_other_emulator_can_be_asked_for() -> None:
    with pytest.raises(ValueError, match="storage"):
        sandbox.start_emulators(emulators=("storage", "tasks"))


@pytest.mark.datastore
def test_googles_emulator_of_datastore_starts_and_ends(
    emulators: Emulators, monkeypatch: pytest.MonkeyPatch
) -> None:
    emulators.require("firestore")
    monkeypatch.delenv("DATASTORE_EMULATOR_HOST", raising=False)
    sandbox.start_emulators(emulators=["datastore"])
    try:
        address = os.environ["DATASTORE_EMULATOR_HOST"]
        store = DatastoreStore({"PROJECT": "sandbox"})
        store.save_payload("k", b"data")
        assert store.load_payload("k") == b"data"
    finally:
        sandbox.stop_emulators()

    assert not answers(address)
    assert "DATASTORE_EMULATOR_HOST" not in os.environ


def test_without_the_cli_the_error_says_how_to_install_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("DATASTORE_EMULATOR_HOST", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))

    hint = "gcloud components install cloud-firestore"
    with pytest.raises(RuntimeError, match=hint):
        sandbox.start_emulators(emulators=["datastore"])
    with pytest.raises(CommandError, match=hint):
        call_command("cloudtask_emulator", port=0, with_datastore=True)


@pytest.mark.parametrize(
    ("arguments", "port"),
    [
        ("manage.py runserver", 8000),
        ("manage.py runserver 8080", 8080),
        ("manage.py runserver 0.0.0.0:8081", 8081),
        ("manage.py runserver --noreload [::1]:8082", 8082),
        ("manage.py runserver_plus 8083", 8083),
        ("manage.py testserver fixture.json --addrport=8084", 8084),
        ("manage.py testserver fixture.json --addrport [::1]:8085", 8085),
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
    with sandbox.emulator(commands=None, port=0):
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
        [*manage, "check"],
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )

    assert result.returncode == 0, result.stderr
    assert "Queue: projects/local/locations/local/queues/default" in result.stdout
    assert "no issues" in result.stdout


def test_a_killed_parent_takes_the_emulator_along(manage: list[str]) -> None:
    process = subprocess.Popen(
        [*manage, "shell", "-c", "import time; time.sleep(3600)"],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    address = next(line for line in process.stdout if line.startswith("127.")).strip()
    assert answers(address)

    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()

    wait_until(lambda: not answers(address), "The emulator ends with its parent")
