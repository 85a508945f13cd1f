"""`python -m cloudtask.emulator` and `manage.py cloudtask_emulator`."""

from __future__ import annotations

import ast
import io
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from django.core.management import call_command
from django.core.management.base import CommandError
from django.test import Client

import cloudtask.emulator
from cloudtask.emulator import Emulator, Tick, cli
from cloudtask.emulator.options import DEFAULT_PORT
from cloudtask.emulator.tokens import SigningKey
from cloudtask.sandbox.process import PORT_TAKEN
from tests.emulator.asking import ask
from tests.emulator.conftest import client_of
from tests.support.waiting import PATIENCE

COMMAND = [sys.executable, "-W", "error", "-m", "cloudtask.emulator", "--port=0"]


def settings_of(*arguments: str, **options: object):
    import argparse

    parser = argparse.ArgumentParser()
    cli.add_arguments(parser)
    return cli.settings_from(vars(parser.parse_args(arguments)), print, **options)


def test_ports_follow_each_other() -> None:
    assert settings_of().http_port == DEFAULT_PORT + 1
    assert settings_of("--port=9000").http_port == 9001
    assert settings_of("--port=0").http_port == 0
    assert settings_of("--port=9000", "--http-port=7").http_port == 7


def test_queues_come_from_everywhere(tmp_path: Path) -> None:
    path = tmp_path / "queue.yaml"
    path.write_text("queue: [{name: mail, rate: 5/s}]")

    settings = settings_of(
        f"--queue-yaml={path}",
        "--queue=extra",
        "--queue=projects/x/locations/y/queues/z",
        "--project=me",
        queues={"default": {}},
    )

    assert list(settings.queues) == [
        "projects/me/locations/local/queues/default",
        "projects/me/locations/local/queues/mail",
        "projects/me/locations/local/queues/extra",
        "projects/x/locations/y/queues/z",
    ]
    mail = settings.queues["projects/me/locations/local/queues/mail"]
    assert mail.config.rate == 5.0


def test_queues_have_options_and_defaults_on_the_command_line(tmp_path: Path) -> None:
    path = tmp_path / "queue.yaml"
    path.write_text("queue: [{name: old}]")

    settings = settings_of(
        f"--queue-yaml={path}",
        "--queue=mail,rate=5/s,max_attempts=3",
        "--queue-defaults=max_attempts=7,tombstone=1h",
    )

    old, mail = (each.config for each in settings.queues.values())
    assert (mail.rate, mail.retry.max_attempts, mail.tombstone) == (5, 3, 3600)
    assert (old.retry.max_attempts, old.tombstone) == (7, 3600)
    assert settings.queue_defaults.retry.max_attempts == 7
    assert settings.queue_tombstone == 3 * 86_400


def test_names_of_a_queue_yaml_stay_taken_for_nine_days(tmp_path: Path) -> None:
    path = tmp_path / "queue.yaml"
    path.write_text("queue: [{name: old}]")

    (old,) = settings_of(f"--queue-yaml={path}").queues.values()

    assert old.config.tombstone == 9 * 86_400


def test_the_call_of_each_minute_is_described_by_options() -> None:
    settings = settings_of(
        "--tick=http://127.0.0.1:8000/relay",
        "--tick-header=Authorization: Bearer x:y",
        "--tick-account=a@b",
        "--tick-audience=c",
    )

    assert settings.tick == Tick(
        url="http://127.0.0.1:8000/relay",
        headers={"Authorization": "Bearer x:y"},
        account="a@b",
        audience="c",
    )


def test_tokens_may_be_signed_with_a_key_of_ones_own(tmp_path: Path) -> None:
    pems: list[bytes] = []
    key = SigningKey(on_new=pems.append)
    public = key.public_pem
    path = tmp_path / "key.pem"
    path.write_bytes(pems[0])

    settings = settings_of(f"--token-key={path}")

    with Emulator(token_key=settings.token_key) as emulator:
        keys = ask(emulator, "GET", "/oauth2/v1/certs").json
    assert list(keys.values()) == [public]


def test_without_queues_there_is_a_default_one() -> None:
    assert list(settings_of().queues) == [
        "projects/local/locations/local/queues/default"
    ]


def test_both_sides_need_a_port_each() -> None:
    with pytest.raises(ValueError, match="a port each"):
        settings_of("--port=9000", "--http-port=9000")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_tells_what_it_does_and_stops_cleanly(number: int, sink) -> None:
    process = subprocess.Popen(
        [*COMMAND, "--queue=default"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout is not None
    address = process.stdout.readline().split()[-1]
    assert "status page" in process.stdout.readline()
    queue = process.stdout.readline().split()[-1]
    guidance = [process.stdout.readline() for _ in range(5)]
    with client_of(address) as client:
        task = {"name": f"{queue}/tasks/one", "http_request": {"url": sink.url + "/a"}}
        client.create_task(parent=queue, task=task)
    line = process.stdout.readline()
    process.send_signal(number)
    rest, _ = process.communicate(timeout=PATIENCE)

    assert "HTTP tasks go to the URLs that they name" in guidance[0]
    assert f"export CLOUD_TASKS_EMULATOR_HOST={address}\n" in guidance[3]
    assert "export CLOUDTASK_EMULATOR_URL=http://127.0.0.1:" in guidance[4]
    assert line.startswith(f"default/one attempt 1 POST {sink.url}/a -> 200 in ")
    assert line.endswith(" ms\n")
    assert rest == "Stopped.\n"
    assert process.returncode == 0


@pytest.mark.parametrize(
    ("option", "complaint"),
    [
        ("--host=0.0.0.0", "other machines"),
        ("--chaos=x=1", "chaos"),
        ("--target=nowhere", "http://"),
        ("--service=x", "NAME=URL"),
        ("--queue=a b", "must be formatted"),
        ("--data=/proc/none/x", "can't be used"),
        ("--queue-yaml=/none.yaml", "none.yaml"),
        ("--queue=mail,rat=5/s", "Did you mean 'rate'"),
        ("--queue-defaults=backoff=5", "not a backoff"),
        ("--queue-tombstone=soon", "not a duration"),
        ("--queue-defaults=paused", "one queue only"),
        ("--queue=mail,paused=no", "True or False"),
        ("--http-port=65536", "0 to 65535"),
        ("--http-port=-1", "0 to 65535"),
        ("--target=http://", "names no host"),
        ("--tick=http://[", "names no host"),
        ("--tick-account=a@b", "need --tick URL"),
        ("--tick=localhost", "http://"),
        ("--token-key=/none.pem", "none.pem"),
        ("--token-key=/dev/null", "RSA private key"),
    ],
)
def test_a_wrong_option_ends_with_a_sentence(
    option: str, complaint: str, capsys
) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(["--port=0", option])

    assert caught.value.code == 2
    assert complaint in capsys.readouterr().err


@pytest.fixture
def served(mocker):
    """The settings with which the management command serves, without serving."""
    return mocker.patch.object(cli, "serve")


def test_the_management_command_reads_the_projects_settings(served, settings) -> None:
    settings.CLOUDTASK = {
        "PROJECT": "shop",
        "LOCATION": "europe-west1",
        "QUEUES": {"mail": {"rate": "50/s", "backoff": "1s..10m"}},
    }

    call_command("cloudtask_emulator", stdout=io.StringIO())

    chosen = served.call_args.args[0]
    parent = "projects/shop/locations/europe-west1/queues"
    assert list(chosen.queues) == [f"{parent}/default", f"{parent}/mail"]
    assert chosen.queues[f"{parent}/mail"].config.rate == 50.0
    assert chosen.target == "http://127.0.0.1:8000"


def test_djangaes_settings_are_understood(served, settings) -> None:
    del settings.CLOUDTASK
    settings.CLOUD_TASKS_PROJECT_ID = "old"
    settings.CLOUD_TASKS_LOCATION = "here"
    settings.CLOUD_TASKS_QUEUES = [{"name": "slow"}]

    call_command("cloudtask_emulator", stdout=io.StringIO())

    queues = list(served.call_args.args[0].queues)
    assert queues[1] == "projects/old/locations/here/queues/slow"


def test_the_target_follows_the_default_port_of_runserver(served, mocker) -> None:
    from django.contrib.staticfiles.management.commands import runserver

    mocker.patch.object(runserver.Command, "default_port", "8042")
    mocker.patch(
        "cloudtask.management.commands.cloudtask_emulator.get_commands",
        return_value={"runserver": "django.contrib.staticfiles"},
    )

    call_command("cloudtask_emulator", stdout=io.StringIO())

    assert served.call_args.args[0].target == "http://127.0.0.1:8042"


def test_the_management_command_calls_the_relay_of_the_application(
    served, monkeypatch
) -> None:
    out = io.StringIO()
    call_command("cloudtask_emulator", target="http://127.0.0.1:9", stdout=out)

    tick = served.call_args.args[0].tick
    path = "/_cloudtask/relay/"
    assert tick.url == f"http://127.0.0.1:9{path}"
    assert tick.quiet
    # The token is worth nothing where no emulator is.
    monkeypatch.delenv("CLOUD_TASKS_EMULATOR_HOST", raising=False)
    assert Client().post(path, headers=tick.headers).status_code == 403
    monkeypatch.setenv("CLOUD_TASKS_EMULATOR_HOST", "127.0.0.1:1")
    other = {"Authorization": tick.headers["Authorization"][:-2]}
    assert Client().post(path, headers=other).status_code == 403
    assert Client().post(path).status_code == 403


@pytest.mark.django_db(databases="__all__")
def test_the_relay_trusts_the_emulator(served, monkeypatch) -> None:
    call_command("cloudtask_emulator", stdout=io.StringIO())
    monkeypatch.setenv("CLOUD_TASKS_EMULATOR_HOST", "127.0.0.1:1")

    headers = served.call_args.args[0].tick.headers
    assert Client().post("/_cloudtask/relay/", headers=headers).status_code == 200


def test_the_management_command_calls_what_it_is_told_or_nothing(served) -> None:
    call_command("cloudtask_emulator", tick="http://x/mine", stdout=io.StringIO())
    assert served.call_args.args[0].tick.url == "http://x/mine"
    call_command("cloudtask_emulator", no_tick=True, stdout=io.StringIO())
    assert served.call_args.args[0].tick is None


def test_a_project_without_the_urls_is_told(served, settings) -> None:
    settings.ROOT_URLCONF = "tests.support"
    call_command("cloudtask_emulator", stdout=io.StringIO())

    assert served.call_args.args[0].tick is None
    [note] = served.call_args.kwargs["notes"]
    assert "the relay has no URL" in note


def test_the_management_command_refuses_in_its_own_words(served) -> None:
    with pytest.raises(CommandError, match="other machines"):
        call_command("cloudtask_emulator", host="0.0.0.0")


def test_it_imports_nothing_of_the_rest() -> None:
    folder = Path(cloudtask.emulator.__file__).parent
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0
                names = [node.module or ""]
            for name in names:
                root = name.split(".")[0]
                assert root != "django"
                assert root != "cloudtask" or name.startswith("cloudtask.emulator")


def test_the_script_imports_no_django(tmp_path: Path) -> None:
    (tmp_path / "django.py").write_text("raise ImportError('not here')")
    script = Path(sys.executable).with_name("cloudtask-emulator")
    result = subprocess.run(
        [script, "--help"],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )

    assert result.stdout.startswith("usage: cloudtask-emulator")
    assert "--tick" in result.stdout


def test_it_runs_without_django() -> None:
    code = (
        "import sys; sys.modules['django'] = None\n"
        "from cloudtask.emulator import Emulator\n"
        "with Emulator() as emulator: print(emulator.address)"
    )
    environment = {k: v for k, v in os.environ.items() if k != "DJANGO_SETTINGS_MODULE"}
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )

    assert result.stderr == ""
    assert result.stdout.startswith("127.0.0.1:")


@pytest.mark.parametrize(
    ("option", "what_for"),
    [("--port", "gRPC"), ("--http-port", "REST and the status page")],
)
@pytest.mark.parametrize("program", ["cloudtask.emulator", "manage.py"])
def test_a_port_in_use_is_named_with_what_needs_it(
    program: str, option: str, what_for: str
) -> None:
    expected = rf"in use\. The emulator needs it for {what_for} \({option}\)"
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ports = {"--port": 0, "--http-port": 0, option: port}
        arguments = [f"{name}={number}" for name, number in ports.items()]
        if program == "manage.py":
            with pytest.raises(CommandError, match=f"Port {port} .*{expected}") as told:
                call_command("cloudtask_emulator", *arguments)
            assert told.value.returncode == PORT_TAKEN
            return
        command = [sys.executable, "-m", program, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE)

    assert done.returncode == PORT_TAKEN
    assert re.search(f"Port {port} .*{expected}", done.stderr)


def test_of_two_ports_in_use_the_one_for_grpc_is_named() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as one,
        socket.create_server(("127.0.0.1", 0)) as other,
    ):
        ports = [taken.getsockname()[1] for taken in (one, other)]
        arguments = [f"--port={ports[0]}", f"--http-port={ports[1]}"]
        out = io.StringIO()
        with pytest.raises(CommandError, match=f"Port {ports[0]} of"):
            call_command("cloudtask_emulator", *arguments, stdout=out)

    assert out.getvalue() == ""


def test_a_host_that_is_not_here_is_named() -> None:
    arguments = ("--port=0", "--host=nowhere.invalid", "--allow-remote")
    with pytest.raises(CommandError, match=r"nowhere\.invalid:0 can't be listened on"):
        call_command("cloudtask_emulator", *arguments)
