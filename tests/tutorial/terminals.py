"""Two terminals in one empty folder: the first runs the server, the second the rest."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.acceptance.processes import stop
from tests.support.waiting import PATIENCE, wait_until
from tests.tutorial.pages import Command, File, Interrupt, Shown, Step, pattern

# What a newcomer's shell does not have.
OURS = {"DJANGO_SETTINGS_MODULE", "PYTHONPATH", "VIRTUAL_ENV", "GOOGLE_CLOUD_PROJECT"}
LOCAL_TASKS = re.compile(r"gRPC on 127\.0\.0\.1:(\d+)")


class Terminals:
    """Does the steps of pages; `port` takes the place of 8000."""

    def __init__(self, folder: Path, wheels: Path, port: int) -> None:
        self.folder, self.port = folder, port
        self.log = folder.parent / "server.log"
        self.log.touch()
        self.read = 0  # characters of the log that were compared
        self.lines = 0  # typed
        (folder.parent / ".curlrc").write_text("silent\n")  # as in a terminal
        binaries = (folder / ".venv/bin", Path(sys.executable).parent)
        environ = {
            name: value for name, value in os.environ.items() if name not in OURS
        }
        self.environ = environ | {
            "PATH": os.pathsep.join([*map(str, binaries), environ["PATH"]]),
            "PIP_FIND_LINKS": f"{environ.get('PIP_FIND_LINKS', '')} {wheels}".strip(),
            "CURL_HOME": str(folder.parent),
            "PYTHONUNBUFFERED": "1",
        }
        self.exported: dict[str, str] = {}
        self.server: subprocess.Popen[bytes] | None = None

    def do(self, step: Step) -> None:
        match step:
            case File():
                self._write(step)
            case Command(line=line) if "runserver" in line:
                self._serve(step)
            case Command():
                self._type(step)
            case Shown():
                self._wait_for(step.lines)
            case Interrupt():
                self.interrupt()

    def _ours(self, text: str) -> str:
        found = LOCAL_TASKS.findall(self.log.read_text())
        text = text.replace("8123", found[-1]) if found else text
        return text.replace("8000", str(self.port))

    def _write(self, file: File) -> None:
        self.lines += file.text.count("\n")
        with (self.folder / file.path).open("a" if file.is_added else "w") as output:
            output.write(self._ours(("\n" if file.is_added else "") + file.text))

    def _type(self, command: Command) -> None:
        self.lines += 1
        line = self._ours(command.line)
        if line.startswith("export "):
            name, _, value = line.removeprefix("export ").partition("=")
            self.exported[name] = value
            return
        done = subprocess.run(
            ["bash", "-c", line],
            cwd=self.folder,
            env=self.environ | self.exported,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=4 * PATIENCE,
        )
        if "FAILED" not in command.output:
            assert done.returncode == 0, f"$ {line}\n{done.stdout}"
        if command.output:
            wanted = self._ours(command.output)
            told = f"$ {line}\n{done.stdout}\nThe page says:\n{wanted}"
            assert pattern(wanted).fullmatch(done.stdout.strip()), told

    def _serve(self, command: Command) -> None:
        assert self.server is None, "The page starts a second server."
        self.lines += 1
        self.read = len(self.log.read_text())
        with self.log.open("ab") as output:
            self.server = subprocess.Popen(
                self._ours(command.line).split(),
                cwd=self.folder,
                env=self.environ,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=_heed_interrupts,
            )
        wanted = pattern(self._ours(command.output))
        wait_until(lambda: wanted.search(self._unread()), command.output, self._unread)

    def _unread(self) -> str:
        return self.log.read_text()[self.read :]

    def _wait_for(self, lines: tuple[str, ...]) -> None:
        self.read += max([self._end_of(line) for line in lines])

    def _end_of(self, line: str) -> int:
        wanted = pattern(self._ours(line))
        return wait_until(
            lambda: wanted.search(self._unread()), line, self._unread
        ).end()

    def interrupt(self) -> None:
        """Ctrl-C in the first terminal: all processes of its group get the signal."""
        if self.server is not None:
            os.killpg(self.server.pid, signal.SIGINT)
            self.server.wait(PATIENCE)
            self.server = None


def _heed_interrupts() -> None:
    """A shell lets processes in its background ignore Ctrl-C, and all below them."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@contextmanager
def opened(folder: Path, wheels: Path, port: int) -> Iterator[Terminals]:
    """Terminals whose server ends with the block."""
    folder.mkdir()
    terminals = Terminals(folder, wheels, port)
    try:
        yield terminals
    finally:
        if terminals.server is not None:
            stop(terminals.server)
