"""A shop that used Celery and djangae, ported by the guides: before/ and shop/."""

from __future__ import annotations

import difflib
import json
import os
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from urllib.request import Request, urlopen

import pytest

from tests.acceptance.processes import ROOT, running, wait_for_server
from tests.acceptance.site import APP_ENGINE, HTTP, listening, target_settings
from tests.support.waiting import wait_until

HERE = Path(__file__).parent
APP = "tests.acceptance.ported.shop"
QUEUES = ("default", "mail", "stock")
# gunicorn takes the call that makes the application.
WSGI = "django.core.wsgi:get_wsgi_application()"


def environment(folder, target):
    return {
        "DJANGO_SETTINGS_MODULE": f"{APP}.settings",
        "PORTED_FOLDER": str(folder),
        "PORTED_TARGET": json.dumps(target),
        "PYTHONPATH": str(ROOT),
    }


def django(folder, *arguments, target=None):
    command = [sys.executable, "-W", "error", "-m", "django", *arguments]
    environ = environment(folder, target or {"BACKEND": APP_ENGINE})
    return subprocess.run(
        command,
        cwd=ROOT,
        env=os.environ | environ,
        capture_output=True,
        text=True,
        check=False,
    )


def test_nothing_is_left_of_what_it_was_written_for():
    code = "\n".join(path.read_text() for path in (HERE / "shop").glob("*.py"))
    imports = [
        line for line in code.splitlines() if line.startswith(("from", "import"))
    ]
    assert not [line for line in imports if "celery" in line or "djangae" in line]


def test_what_used_djangae_is_changed_in_its_imports_alone():
    before, after = (
        (HERE / folder / "stock.py").read_text().splitlines()
        for folder in ("before", "shop")
    )
    changed = {
        line[2:]
        for line in difflib.ndiff(before, after)
        if line.startswith("+ ")
        and not line[2:].startswith(("from ", '"""', "Nothing"))
    }
    assert changed <= {""}


def test_its_own_tests_pass(tmp_path):
    tested = django(tmp_path, "test", APP)
    assert tested.returncode == 0, tested.stderr
    assert "Ran 7 tests" in tested.stderr


def test_its_settings_pass_the_check(tmp_path):
    checked = django(tmp_path, "check", "--fail-level", "WARNING")
    assert checked.returncode == 0, checked.stderr


class Shop:
    """The served shop, seen from outside."""

    def __init__(self, url, log):
        self.url = url
        self.log = log

    def do(self, what):
        with urlopen(Request(f"{self.url}/shop/{what}/", data=b"")) as response:
            assert response.status == 200

    def state(self):
        with urlopen(f"{self.url}/state/") as response:
            return json.load(response)

    def wait_for(self, *texts):
        """The state, once all these entries are there."""

        def look():
            state = self.state()
            return state if set(texts) <= set(state["entries"]) else None

        return wait_until(look, f"entries {texts}", self.tail)

    def tail(self):
        return f"{self.state()} {self.log.read_text()[-3000:]}"


def targets():
    """Each site is started once, in one process, for all of its tests."""
    for target in (HTTP, APP_ENGINE):
        marks = [pytest.mark.xdist_group(f"ported {target}")]
        if target != HTTP:
            marks.append(pytest.mark.exhaustive)
        yield pytest.param(target, marks=marks)


@pytest.fixture(scope="module", params=targets())
def shop(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("ported")
    with listening() as sock, emulator(folder, sock.getsockname()[1]) as cloud:
        url = f"http://127.0.0.1:{sock.getsockname()[1]}"
        target = target_settings(request.param, url, cloud)
        migrated = django(folder, "migrate", "--run-syncdb", target=target)
        assert migrated.returncode == 0, migrated.stderr
        log = folder / "gunicorn.log"
        command = [sys.executable, "-m", "gunicorn", WSGI]
        command += [f"--bind=fd://{sock.fileno()}", "--workers=2", "--threads=4"]
        environ = environment(folder, target)
        environ["CLOUD_TASKS_EMULATOR_HOST"] = cloud.address
        with running(
            [*command, "--no-control-socket"],
            log,
            environ=environ,
            pass_fds=[sock.fileno()],
        ) as process:
            shop = Shop(url, log)
            wait_for_server(process, lambda: answers(shop), log)
            yield shop


def answers(shop):
    try:
        return shop.state()
    except OSError:
        return None


class Cloud:
    def __init__(self, facts):
        self.address = facts["address"]
        self.issuer = facts["http_address"]


@contextmanager
def emulator(folder, port):
    """The emulator with the queues of the shop."""
    announcement, log = folder / "emulator.json", folder / "emulator.log"
    command = [sys.executable, "-m", "cloudtask.emulator", "--port=0", "--http-port=0"]
    command += [f"--target=http://127.0.0.1:{port}", f"--announce={announcement}"]
    command += [f"--queue=projects/p/locations/l/queues/{name}" for name in QUEUES]
    with running(command, log) as process:
        wait_for_server(process, announcement.exists, log)
        yield Cloud(json.loads(announcement.read_text()))


@pytest.mark.acceptance
class TestServed:
    def test_what_used_celery_works(self, shop):
        shop.do("celery")
        shop.wait_for(
            "Receipt 1 to ann@example.com",
            "Receipt 1 (copy) to ann@example.com",
            "order 1: receipt at attempt 1",
            "Receipt 2 to busy@example.com",
            "order 2: receipt at attempt 2",
            "Reminder 1 to ann@example.com",
        )
        shop.do("close")
        wait_until(lambda: shop.state()["totals"] == {"monday": 6}, "6", shop.tail)

    def test_what_used_djangae_works(self, shop):
        shop.do("djangae")
        shop.wait_for("received 5", "in task: True, queue stock")
        wait_until(lambda: len(shop.state()["products"]) == 4, "imports", shop.tail)
        products = shop.state()["products"]
        assert products["tea"] == [0, 0, "csv"]
        assert products["rice"] == [5, 7, ""]
        shop.do("prices")
        state = shop.wait_for("prices x 2: inflation")
        assert state["products"]["rice"] == [5, 14, ""]
