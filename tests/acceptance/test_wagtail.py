"""Wagtail 8 from PyPI, whose own tasks run through our backend for Django's tasks.

Its site is the one that `wagtail start` makes. An editor publishes, edits and deletes a
page, and uploads and deletes a picture, over HTTP.
"""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import urlopen

import pytest
from PIL import Image

from cloudtask.emulator import Emulator
from tests.acceptance.processes import ROOT, running, wait_for_server
from tests.acceptance.site import ACCOUNT, HTTP, listening
from tests.acceptance.wagtail_site.editor import Editor
from tests.support.waiting import PATIENCE, wait_until

pytestmark = [
    pytest.mark.acceptance,
    pytest.mark.exhaustive,
    pytest.mark.xdist_group("wagtail"),
]

WAGTAIL = "wagtail==8.*"
PYTHONS = ("3.11", "3.13")  # Django 5.2 with the backport, and the newest Django
OURS = ROOT / "tests" / "acceptance" / "wagtail_site"
CACHE = ROOT / "build" / "wagtail"
LOGIN = {"DJANGO_SUPERUSER_PASSWORD": "a password for this test"}


def run(*command: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, capture_output=True, text=True, timeout=600, check=False, **options
    )


def skip(why: str) -> None:
    print(f"Wagtail was not tested: {why}")
    pytest.skip(why)


def python_of(version: str) -> Path:
    """A Python of this version; where there is none, the test is skipped."""
    if version == "{}.{}".format(*sys.version_info):
        return Path(sys.executable)
    found = sorted(Path.home().glob(f".pyenv/versions/{version}*/bin/python{version}"))
    other = shutil.which(f"python{version}")
    if not found and other is None:
        skip(f"python{version} was not found")
    return found[-1] if found else Path(str(other))


@pytest.fixture(scope="module", params=PYTHONS)
def environment(request: pytest.FixtureRequest) -> Path:
    """The folder of programs of an environment with Wagtail and this package."""
    folder = CACHE / f"env-{request.param}" / "bin"
    if not (folder / "python").exists():
        python = python_of(request.param)
        made = run(python, "-m", "venv", "--clear", folder.parent)
        assert made.returncode == 0, made.stderr
    install = (folder / "python", "-m", "pip", "install", "-q")
    installed = run(*install, WAGTAIL, "gunicorn", "-e", ROOT)
    if installed.returncode:
        skip(f"{WAGTAIL} could not be installed from PyPI for Python {request.param}")
    return folder


class Site:
    """A new site of Wagtail's, and the emulator beside it."""

    def __init__(self, environment: Path, folder: Path, port: int) -> None:
        self.python, self.folder = environment / "python", folder
        self.url, self.log = f"http://127.0.0.1:{port}", folder / "gunicorn.log"
        # Two tasks of Wagtail's search for one object insert the same row if they run
        # at the same time. One of them then fails, and is tried again.
        queues = {"projects/p/locations/l/queues/default": {"concurrency": 1}}
        self.emulator = Emulator(target=self.url, queues=queues)
        started = run(environment / "wagtail", "start", "mysite", folder)
        assert started.returncode == 0, started.stderr
        shutil.copy(OURS / "models.py", folder / "home" / "models.py")
        shutil.copy(OURS / "local.py", folder / "mysite" / "settings" / "local.py")
        urls = folder / "mysite" / "urls.py"
        ours = 'path("_cloudtask/", include("cloudtask.urls"))'
        text = urls.read_text().replace("urlpatterns = [", f"urlpatterns = [{ours},", 1)
        urls.write_text(text)

    @property
    def environ(self) -> dict[str, str]:
        target = {"BACKEND": HTTP, "URL": self.url, "SERVICE_ACCOUNT": ACCOUNT}
        return {
            "DJANGO_SETTINGS_MODULE": "mysite.settings.dev",
            "WAGTAIL_TARGET": json.dumps(target),
            "CLOUD_TASKS_EMULATOR_HOST": self.emulator.address,
            "CLOUDTASK_EMULATOR_URL": self.emulator.http_address,
            "PYTHONPATH": str(self.folder),
        }

    def manage(self, *arguments: str) -> str:
        command = (self.python, "-W", "default", self.folder / "manage.py", *arguments)
        environ = os.environ | LOGIN | self.environ
        done = run(*command, cwd=self.folder, env=environ)
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr

    def answers(self) -> bool:
        try:
            with urlopen(f"{self.url}/"):
                return True
        except URLError:
            return False

    def settle(self) -> None:
        self.emulator.wait_idle(PATIENCE, scheduled=True)

    def tasks(self) -> list[str]:
        """The tasks that have run, by the URLs of their deliveries."""
        urls = [record.url for record in self.emulator.dispatches()]
        return [url.partition("/_cloudtask/run/")[2] for url in urls]


@pytest.fixture
def site(environment: Path, tmp_path: Path) -> Iterator[Site]:
    with listening() as sock:
        site = Site(environment, tmp_path, sock.getsockname()[1])
        command = [site.python, "-m", "gunicorn", "mysite.wsgi"]
        command += [f"--bind=fd://{sock.fileno()}", "--workers=2", "--threads=4"]
        command += ["--preload", "--no-control-socket"]
        with site.emulator:
            site.manage("makemigrations", "home")
            site.manage("migrate", "--verbosity=0")
            who = ("--username=ed", "--email=ed@x.example")
            site.manage("createsuperuser", "--noinput", *who)
            process = running(
                command, site.log, environ=site.environ, pass_fds=[sock.fileno()]
            )
            with process as server:
                wait_for_server(server, site.answers, site.log)
                yield site


def picture() -> bytes:
    out = io.BytesIO()
    Image.new("RGB", (40, 30), "teal").save(out, "png")
    return out.getvalue()


def number_in(url: str, pattern: str) -> str:
    found = re.search(pattern, url)
    assert found, url
    return found[1]


def test_an_editor_works_and_each_task_succeeds_at_its_first_attempt(
    site: Site,
) -> None:
    checked = site.manage("check")
    assert "System check identified no issues" in checked
    assert "cloudtask" not in checked
    editor = Editor(site.url)
    editor.submit(
        "/admin/login/", username="ed", password=LOGIN["DJANGO_SUPERUSER_PASSWORD"]
    )

    # Upload a picture.
    _, listed = editor.submit(
        "/admin/images/add/", title="Teal", file=("teal.png", picture())
    )
    image = number_in(listed, r"/admin/images/(\d+)/")
    site.settle()
    assert "modelsearch.tasks.insert_or_update_object_task" in site.tasks()
    files = site.folder / "media" / "original_images"
    assert [file.name for file in files.iterdir()] == ["teal.png"]

    # Publish a page with it; a task then writes the index of references.
    add = "/admin/pages/add/home/homepage/3/"
    publish = {"action-publish": "action-publish"}
    page_fields = {"title": "News", "slug": "news", "picture": image}
    _, listed = editor.submit(add, **page_fields, **publish)
    assert "News" in editor.read("/news/")
    page = number_in(listed, r"/admin/pages/(\d+)/edit/")
    site.settle()
    usage = f"/admin/images/usage/{image}/"
    assert f"/admin/pages/{page}/edit/" in editor.read(usage)

    # Edit it: without the picture, nothing refers to that any more.
    edit = f"/admin/pages/{page}/edit/"
    editor.submit(edit, title="Old news", picture="", **publish)
    assert "Old news" in editor.read("/news/")
    site.settle()
    assert edit not in editor.read(usage)

    # Delete the page, and the picture, whose file a task removes.
    editor.submit(f"/admin/pages/{page}/delete/")
    editor.submit(f"/admin/images/{image}/delete/")
    site.settle()
    wait_until(
        lambda: not [*files.iterdir()], "The file is removed", site.log.read_text
    )

    log = site.log.read_text()
    records = site.emulator.dispatches()
    assert {(record.status, record.attempt) for record in records} == {(200, 1)}, log
    assert {task.rpartition(".")[2] for task in site.tasks()} >= {
        "update_reference_index_task",
        "insert_or_update_object_task",
        "delete_file_from_storage_task",
    }
    assert not re.search("warning|error|Traceback", log, re.I), log
