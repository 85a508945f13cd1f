"""Google's client for Node, curl, and the page that shows how to use them."""

from __future__ import annotations

import fcntl
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from cloudtask.emulator import Emulator
from tests.acceptance.processes import ROOT
from tests.emulator.sink import Sink
from tests.support.waiting import PATIENCE

pytestmark = pytest.mark.acceptance

PAGE = ROOT / "docs" / "howto" / "emulator-other-languages.md"
SUITE = Path(__file__).with_name("suite.js")
NODE = ROOT / ".node-tasks"
PACKAGES = ("@google-cloud/tasks@6", "google-auth-library", "google-gax")
QUEUE = "projects/my-project/locations/here/queues/default"


@pytest.fixture
def sink() -> Iterator[Sink]:
    with Sink().running() as sink:
        yield sink


@pytest.fixture
def emulator(sink: Sink) -> Iterator[Emulator]:
    with Emulator(queues=(QUEUE,), target=sink.url) as emulator:
        yield emulator


@pytest.fixture(scope="session")
def node() -> Path:
    """A folder with Google's client, installed at the first use."""
    if shutil.which("npm") is None:
        pytest.skip("npm is not on this machine.")
    NODE.mkdir(exist_ok=True)
    with (NODE / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (NODE / "complete").exists():
            _install()
    return NODE


def _install() -> None:
    (NODE / "package.json").write_text('{"private": true}')
    command = ["npm", "install", "--no-audit", "--no-fund", "--ignore-scripts"]
    done = subprocess.run(
        [*command, *PACKAGES], cwd=NODE, capture_output=True, text=True, check=False
    )
    unreachable = ("ENOTFOUND", "ETIMEDOUT", "ECONNREFUSED", "ECONNRESET", "EAI_AGAIN")
    if done.returncode and any(code in done.stderr for code in unreachable):
        pytest.skip("npm's registry can't be reached.")
    assert done.returncode == 0, done.stderr
    (NODE / "complete").touch()


def run_node(folder: Path, script: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["node", script, *arguments],
        env={"NODE_PATH": str(folder / "node_modules"), "PATH": _path()},
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def _path() -> str:
    return str(Path(shutil.which("node") or "").parent)


def blocks(language: str) -> list[str]:
    text = PAGE.read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def adapted(block: str, emulator: Emulator, sink: Sink) -> str:
    """The block with the addresses of this test instead of those of the page."""
    ports = {
        "8123": emulator.address.rpartition(":")[2],
        "8124": str(urlsplit(emulator.http_address).port),
        "8000": sink.url.rpartition(":")[2],
    }
    return re.sub("|".join(ports), lambda match: ports[match[0]], block)


@pytest.mark.exhaustive(sample=3)  # gRPC with one version, REST with the other
@pytest.mark.parametrize("version", ["v2", "v2beta3"])
@pytest.mark.parametrize("transport", ["grpc", "rest"])
def test_nodes_client_works(
    emulator: Emulator, sink: Sink, node: Path, transport: str, version: str
) -> None:
    address = emulator.address
    if transport == "rest":
        address = emulator.http_address.removeprefix("http://")
    host, _, port = address.rpartition(":")

    output = run_node(node, SUITE, transport, version, host, port, sink.url + "/one")

    seen = json.loads(output)
    over_http = transport == "rest"
    assert seen["defaults"] == 16
    assert seen["again"] == seen["taken"] == (409 if over_http else 6)
    assert seen["changed"] == [7, 3]
    assert seen["state"] == "PAUSED"
    assert len(seen["listed"]) == 1
    assert seen["basic"] == ""
    assert seen["headers"] == {"X-Own": "yes", "User-Agent": "Google-Cloud-Tasks"}
    assert (seen["body"], seen["method"], seen["scheduled"]) == ("hällo", "POST", True)
    assert seen["host"] == "p.appspot.com"
    assert seen["invalid"] == (400 if over_http else 3)
    assert seen["tasks"] == 2
    assert seen["gone"] == (404 if over_http else 5)
    assert (seen.get("batch"), seen.get("count")) == (
        (1, 2) if version == "v2beta3" else (None, None)
    )
    (request,) = sink.wait_for(1)
    assert (request.path, request.body.decode()) == ("/one", "hällo")


def test_nodes_client_on_the_page_creates_a_task(
    emulator: Emulator, sink: Sink, node: Path, tmp_path: Path
) -> None:
    grpc, rest = blocks("js")
    script = tmp_path / "page.js"

    script.write_text(adapted(grpc, emulator, sink))
    assert run_node(node, script).startswith(f"{QUEUE}/tasks/")
    (request,) = sink.wait_for(1)
    assert (request.path, request.body) == ("/orders/7", b"paid")

    script.write_text(adapted(rest, emulator, sink))
    assert run_node(node, script).strip() == f"[ '{QUEUE}' ]"


def test_curl_on_the_page_creates_a_task(emulator: Emulator, sink: Sink) -> None:
    if shutil.which("curl") is None:
        pytest.skip("curl is not on this machine.")
    curl, _ = blocks("sh")

    done = subprocess.run(
        ["bash", "-euc", adapted(curl, emulator, sink)],
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )

    assert done.returncode == 0, done.stdout + done.stderr
    assert f'"name": "{QUEUE}/tasks/order-7"' in done.stdout
    (request,) = sink.wait_for(1)
    assert (request.path, request.body) == ("/orders/7", b"paid")


def test_gcloud_on_the_page_creates_a_queue(
    emulator: Emulator, sink: Sink, tmp_path: Path
) -> None:
    gcloud = shutil.which("gcloud")
    if gcloud is None:
        pytest.skip("gcloud is not on this machine.")
    _, script = blocks("sh")

    done = subprocess.run(
        ["bash", "-euc", adapted(script, emulator, sink)],
        env={
            "PATH": f"{Path(gcloud).parent}:/usr/bin:/bin",
            "HOME": str(tmp_path),
            "CLOUDSDK_CONFIG": str(tmp_path),
            "CLOUDSDK_CORE_DISABLE_PROMPTS": "1",
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )

    assert done.returncode == 0, done.stderr
    names = [info.name.rpartition("/")[2] for info in emulator.queues()]
    assert names == ["default", "mail"]
    assert "mail" in done.stdout


def test_the_client_of_python_on_the_page_is_one(
    emulator: Emulator, sink: Sink, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CLOUD_TASKS_EMULATOR_HOST", emulator.address)
    (code,) = blocks("python")
    names: dict = {}

    exec(adapted(code, emulator, sink), names)

    with names["channel"]:
        assert names["client"].get_queue(name=QUEUE).name == QUEUE
