"""The first hour: README's settings, runserver on any port, and one request.

The task must run on that port, though TARGET names production, and no process may ask
for any other host.
"""

from __future__ import annotations

import ast
import re
import socket
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import pytest

from tests.acceptance.processes import ROOT, running, wait_for_server
from tests.docs.blocks import block
from tests.support.waiting import wait_until

pytestmark = pytest.mark.acceptance

SETTINGS = """
SECRET_KEY = "a key for this test only"
DEBUG = True
ROOT_URLCONF = "mysite.urls"
INSTALLED_APPS = ["django.contrib.contenttypes", "cloudtask", "shop"]
DATABASES = {databases!r}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
USE_TZ = True
CLOUDTASK = {cloudtask!r}
"""
URLS = """
from django.http import HttpResponse
from django.urls import include, path
from shop.tasks import send_receipt

def order(request):
    return HttpResponse(send_receipt.defer(7).id)

urlpatterns = [path("order/", order), path("_cloudtask/", include("cloudtask.urls"))]
"""
TASKS = """
from pathlib import Path
from cloudtask import task

@task(queue="mail")
def send_receipt(order_id):
    Path({ran!r}).write_text(str(order_id))
"""
# Notes each host that Python asks for or connects to, in every process.
GUARD = """
import socket
connect, resolve = socket.socket.connect, socket.getaddrinfo

def note(host):
    host = host.decode() if isinstance(host, bytes) else host
    if host not in (None, "", "localhost", "127.0.0.1", "::1", "0.0.0.0", "::"):
        open({strangers!r}, "a").write(str(host) + "\\n")

def connecting(self, address):
    if isinstance(address, tuple):
        note(address[0])
    return connect(self, address)

def resolving(host, *args, **kwargs):
    note(host)
    return resolve(host, *args, **kwargs)

socket.socket.connect, socket.getaddrinfo = connecting, resolving
"""


class Project:
    """A new project with the settings that README shows."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ran, self.strangers = folder / "ran", folder / "strangers"
        self.log = folder / "log"
        for app in ("mysite", "shop"):
            (folder / app).mkdir()
            (folder / app / "__init__.py").touch()
        name = str(folder / "db.sqlite3")
        database = {"ENGINE": "django.db.backends.sqlite3", "NAME": name}
        settings = SETTINGS.format(
            cloudtask=settings_of_readme(), databases={"default": database}
        )
        (folder / "mysite/settings.py").write_text(settings)
        (folder / "mysite/urls.py").write_text(URLS)
        (folder / "shop/tasks.py").write_text(TASKS.format(ran=str(self.ran)))
        guard = GUARD.format(strangers=str(self.strangers))
        (folder / "sitecustomize.py").write_text(guard)
        (folder / "manage.py").write_text(manage(with_sandbox=False))
        self.environ = {
            "PYTHONPATH": f"{folder}:{ROOT}",
            "DJANGO_SETTINGS_MODULE": "mysite.settings",
        }

    @contextmanager
    def manage(self, *arguments: str, **environ: str) -> Iterator[object]:
        command = [sys.executable, self.folder / "manage.py", *arguments]
        with running(command, self.log, environ=self.environ | environ) as process:
            yield process

    def order(self, port: int) -> str | None:
        """The id of the task that a page has deferred, once the server answers."""
        try:
            with urlopen(f"http://127.0.0.1:{port}/order/") as answer:
                return str(answer.read().decode())
        except URLError:
            return None


def settings_of_readme() -> dict[str, object]:
    code = block("README.md", "CLOUDTASK = {")
    (value,) = (
        node.value
        for node in ast.parse(code).body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "CLOUDTASK"
    )
    found: dict[str, object] = ast.literal_eval(value)
    return found


def manage(*, with_sandbox: bool) -> str:
    """manage.py as the page about the emulator shows it."""
    code = block("docs/howto/emulator.md", "sandbox.emulator()")
    if not with_sandbox:
        code = code.replace("with sandbox.emulator():", "if True:")
    return textwrap.dedent(code)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Project]:
    project = Project(tmp_path)
    with project.manage("migrate") as process:
        assert process.wait() == 0, project.log.read_text()  # type: ignore[attr-defined]
    yield project
    assert not project.strangers.exists(), project.strangers.read_text()


def runs(project: Project, port: int, process: object) -> None:
    """Have the page opened, and the task run on that port."""
    wait_for_server(process, lambda: project.order(port), project.log)  # type: ignore[arg-type]
    wait_until(project.ran.exists, "The task runs", project.log.read_text)
    asked = r'"POST /_cloudtask/run/shop\.tasks\.send_receipt HTTP/1\.1" 200'
    # The task's file is there before the server has logged its answer.
    wait_until(
        lambda: re.search(asked, project.log.read_text()),
        "The delivery is answered",
        project.log.read_text,
    )
    assert project.ran.read_text() == "7"
    url = f"http://127.0.0.1:{port}/_cloudtask/run/"
    wait_until(
        lambda: url in project.log.read_text(),
        "The emulator logs it",
        project.log.read_text,
    )


@pytest.mark.xdist_group("default port")  # two processes could choose the same
@pytest.mark.parametrize("reload", [(), ("--noreload",)], ids=["reloader", "noreload"])
def test_with_the_lines_in_manage_py_tasks_run_on_the_port_of_runserver(
    project: Project, reload: tuple[str, ...]
) -> None:
    (project.folder / "manage.py").write_text(manage(with_sandbox=True))
    port = free_port()
    with project.manage("runserver", str(port), *reload) as process:
        runs(project, port, process)


def test_with_the_emulator_as_a_command_the_lines_that_it_prints_suffice(
    project: Project,
) -> None:
    port = free_port()
    with project.manage("cloudtask_emulator", "--port=0") as emulator:
        exports = wait_for_server(emulator, lambda: printed(project), project.log)  # type: ignore[arg-type]
        with project.manage("runserver", str(port), **exports) as process:
            runs(project, port, process)


def printed(project: Project) -> dict[str, str] | None:
    """The variables that the emulator says to export, once it has said both."""
    found = dict(re.findall(r"export (\w+)=(\S+)\n", project.log.read_text()))
    return found if len(found) == 2 else None
