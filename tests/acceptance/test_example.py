"""The example by hand: the commands of its README, on a port of the reader's choice."""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.acceptance.processes import ROOT, running
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.acceptance, pytest.mark.xdist_group("default port")]
README = (ROOT / "example/README.md").read_text(encoding="utf-8").partition("## By ")[2]
COMMANDS = re.findall(r"^    (\S.*?)(?:  +#.*)?$", README, re.MULTILINE)
# What the command would ask at a terminal.
ANSWERS = {
    "createsuperuser": "createsuperuser --noinput --username a --email a@b.example"
}


class Shell:
    """A shell in a copy of the example."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "example"
        shutil.copytree(
            ROOT / "example", self.folder, ignore=shutil.ignore_patterns("out")
        )
        (self.folder / "out").mkdir()
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.environ = {
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "DJANGO_SETTINGS_MODULE": "atlas.settings",  # not that of the tests
            "DJANGO_SUPERUSER_PASSWORD": "secret",
            "PORT": str(port),
        }

    def type(self, command: str) -> str:
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=self.folder,
            env=os.environ | self.environ,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, f"$ {command}\n{done.stdout}{done.stderr}"
        return done.stdout


def test_the_commands_of_the_readme_run_a_task(tmp_path: Path) -> None:
    shell, log = Shell(tmp_path), tmp_path / "log"
    assert COMMANDS[:2] == ["cd example && mkdir -p out", "export PORT=8000"]
    *before, server, request = COMMANDS[2:]
    for command in before:
        for word, answered in ANSWERS.items():
            command = command.replace(word, answered)
        shell.type(command)
    serve = ["bash", "-c", f"cd {shell.folder} && exec {server}"]
    with running(serve, log, environ=shell.environ):
        wait_until(lambda: "Quit the server" in log.read_text(), server, log.read_text)
        assert '"task"' in shell.type(request)
        wait_until(lambda: "attempt 2: succeeded" in log.read_text(), request)
