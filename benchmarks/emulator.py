"""The emulator against gcloud-tasks-emulator: create while paused, then drain.

    python -m benchmarks.emulator [--quick]

Both serve the same client and drain into the same asynchronous sink, each in a process
of its own. gcloud-tasks-emulator pins protobuf under 5, so it gets an environment of
its own, `.venv-gcloud-emulator`, made on the first run. Loopback only; the number of
tasks bounds the load.
"""

from __future__ import annotations

import argparse
import os
import resource
import socket
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import grpc
from google.cloud import tasks_v2
from google.cloud.tasks_v2.services.cloud_tasks.transports import (
    CloudTasksGrpcTransport,
)

from benchmarks.harness import Effort
from benchmarks.results import NEAR, Figure, Outcome, Verdict

ROOT = Path(__file__).resolve().parent.parent
PEER = ROOT / ".venv-gcloud-emulator"
PEER_REQUIREMENTS = ("gcloud-tasks-emulator==0.6.2", "protobuf<5", "setuptools")
QUEUE = "projects/p/locations/l/queues/default"
NAME, PEER_NAME = "cloudtask.emulator", "gcloud-tasks-emulator 0.6.2"
CLIENTS = 4
TURNS = 10
WARM_UP = 50
WAITING, BATCH = 100_000, 100
GIVE_UP = 300.0
CREATED, DRAINED = "created", "drained"
REASON = (
    "Nearly all of a create is gRPC, on both sides. Which is ahead changes from run to"
    " run by some percent."
)
ABOUT = (
    "Both serve the same client, and send to the same sink, each in a process of its"
    " own. With `--data`, ours writes each task to a file. gcloud-tasks-emulator has"
    " no batches, no tokens and no backoff, and keeps tasks in memory only."
)

# An asyncio server that answers 200 to whatever comes and counts: cheap enough that it
# is never what is measured. GET /count tells how many POSTs there were.
SINK = r"""
import asyncio, sys
count = 0
class Sink(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport, self.buffer = transport, b""
    def data_received(self, data):
        global count
        self.buffer += data
        while (end := self.buffer.find(b"\r\n\r\n")) >= 0:
            head = self.buffer[:end].lower()
            length = 0
            if (at := head.find(b"content-length:")) >= 0:
                length = int(head[at + 15:].split(b"\r\n", 1)[0])
            if len(self.buffer) < end + 4 + length:
                return
            self.buffer = self.buffer[end + 4 + length:]
            body = b""
            if head.startswith(b"post"):
                count += 1
            else:
                body = str(count).encode()
            close = b"connection: close" in head
            self.transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n%s\r\n%s"
                % (len(body), b"Connection: close\r\n" if close else b"", body))
            if close:
                self.transport.close()
async def main():
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Sink, "127.0.0.1", int(sys.argv[1]), backlog=4096)
    await server.serve_forever()
asyncio.run(main())
"""


@dataclass(frozen=True)
class Result:
    """The seconds that one emulator took for `tasks` tasks, and its MB at the end."""

    name: str
    tasks: int
    create: float
    drain: float
    cpu: float
    memory: float

    @property
    def creates_per_second(self) -> float:
        return self.tasks / self.create

    @property
    def drains_per_second(self) -> float:
        return self.tasks / self.drain


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def running(command: list[str], port: int) -> Iterator[subprocess.Popen[bytes]]:
    """A server process, from when its port answers until it is killed."""
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        wait_for(lambda: answers(port) or process.poll() is not None, 30)
        if process.poll() is not None:
            raise RuntimeError(f"{command} ended with status {process.returncode}")
        yield process
    finally:
        process.kill()
        process.wait()


def answers(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def wait_for(condition: Callable[[], bool], timeout: float) -> None:
    give_up = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > give_up:
            raise TimeoutError(f"nothing happened within {timeout:g} s")
        time.sleep(0.01)


def count(port: int) -> int:
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(b"GET /count HTTP/1.1\r\nConnection: close\r\n\r\n")
        answer = b""
        while data := connection.recv(4096):
            answer += data
    return int(answer.rpartition(b"\r\n\r\n")[2])


def usage(pid: int) -> tuple[float, float]:
    """(CPU seconds, resident MB) of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    ticks = int(fields[11]) + int(fields[12])
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    page = resource.getpagesize()
    return ticks / os.sysconf("SC_CLK_TCK"), pages * page / 1e6


class Contestant:
    """An emulator and a sink, both running, and a client for each thread."""

    def __init__(self, stack: ExitStack, name: str, command: list[str]) -> None:
        self.name = name
        self.tasks = 0
        self.create_seconds = self.drain_seconds = self.cpu = self.memory = 0.0
        self.sink_port, port = free_port(), free_port()
        sink = [sys.executable, "-c", SINK, str(self.sink_port)]
        stack.enter_context(running(sink, self.sink_port))
        self.process = stack.enter_context(running([*command, f"--port={port}"], port))
        self.clients = [stack.enter_context(client_of(port)) for _ in range(CLIENTS)]
        for client in self.clients:
            for _ in range(WARM_UP):
                client.pause_queue(name=QUEUE)

    def create(self, tasks: int) -> None:
        """Create tasks with the ordinary client, from a few threads."""
        shares = [tasks // CLIENTS + (i < tasks % CLIENTS) for i in range(CLIENTS)]
        cpu, _ = usage(self.process.pid)
        start = time.perf_counter()
        with ThreadPoolExecutor(CLIENTS) as pool:
            list(pool.map(self._create, self.clients, shares))
        self.create_seconds += time.perf_counter() - start
        self.cpu += usage(self.process.pid)[0] - cpu
        self.tasks += tasks

    def drain(self) -> None:
        """Resume, and wait until the sink has them all."""
        cpu, self.memory = usage(self.process.pid)
        start = time.perf_counter()
        self.clients[0].resume_queue(name=QUEUE)
        wait_for(lambda: count(self.sink_port) >= self.tasks, GIVE_UP)
        self.drain_seconds = time.perf_counter() - start
        self.cpu += usage(self.process.pid)[0] - cpu

    def result(self) -> Result:
        return Result(
            name=self.name,
            tasks=self.tasks,
            create=self.create_seconds,
            drain=self.drain_seconds,
            cpu=self.cpu,
            memory=self.memory,
        )

    def _create(self, client: tasks_v2.CloudTasksClient, tasks: int) -> None:
        target = {"url": f"http://127.0.0.1:{self.sink_port}/", "body": b"x" * 200}
        for _ in range(tasks):
            client.create_task(parent=QUEUE, task={"http_request": target})


@contextmanager
def client_of(port: int) -> Iterator[tasks_v2.CloudTasksClient]:
    # A pool of its own keeps gRPC from sending all clients over one connection.
    options = [("grpc.use_local_subchannel_pool", 1)]
    with grpc.insecure_channel(f"127.0.0.1:{port}", options) as channel:
        transport = CloudTasksGrpcTransport(channel=channel)
        yield tasks_v2.CloudTasksClient(transport=transport)


def race(commands: dict[str, list[str]], tasks: int) -> list[Result]:
    """All contestants, turn by turn: what else the machine does meets them alike."""
    with ExitStack() as stack:
        racers = [Contestant(stack, *each) for each in commands.items()]
        turns = min(TURNS, tasks // 250)
        for turn in range(turns):
            share = tasks // turns + (turn < tasks % turns)
            for racer in racers if turn % 2 else reversed(racers):
                racer.create(share)
        for racer in racers:
            racer.drain()
        return [racer.result() for racer in racers]


def memory_of_waiting(tasks: int) -> tuple[float, float]:
    """Resident MB of the emulator before and after so many tasks wait in a queue."""
    with ExitStack() as stack:
        port = free_port()
        process = stack.enter_context(running([*ours(), f"--port={port}"], port))
        client = stack.enter_context(client_of(port))
        client.pause_queue(name=QUEUE)
        target = {"url": "http://127.0.0.1:9/", "body": b"x" * 200}
        one = {"parent": QUEUE, "task": {"http_request": target}}
        before = usage(process.pid)[1]
        for _ in range(tasks // BATCH):
            batch = {"parent": QUEUE, "requests": [one] * BATCH}
            client.batch_create_tasks(request=batch)
        return before, usage(process.pid)[1]


def ours(*extra: str) -> list[str]:
    command = [sys.executable, "-m", "cloudtask.emulator", "--http-port=0", "--quiet"]
    return [*command, f"--queue={QUEUE}", "--no-rate-limits", *extra]


def peer() -> list[str]:
    command = [str(peer_python()), "-m", "gcloud_tasks_emulator", "start", "-q"]
    return [*command, f"--default-queue={QUEUE}"]


def peer_python() -> Path:
    python = PEER / "bin" / "python"
    if not (PEER / "bin" / "gcloud-tasks-emulator").exists():
        print(f"Making {PEER.name} ...", flush=True)
        venv.create(PEER, with_pip=True)
        command = [python, "-m", "pip", "install", "-q", *PEER_REQUIREMENTS]
        subprocess.run(command, check=True)
    return python


def outcome(effort: Effort) -> Outcome:
    """Race both emulators, and then ours alone with few and many tasks."""
    many, compared = (50_000, 10_000) if effort.thorough else (5_000, 2_000)
    with tempfile.TemporaryDirectory() as folder:
        data = f"--data={Path(folder) / 'tasks.sqlite3'}"
        reference, same, kept = race(
            {PEER_NAME: peer(), NAME: ours(), f"{NAME} --data": ours(data)}, compared
        )
    (small,) = race({f"{NAME}, 500 tasks": ours()}, 500)
    (large,) = race({f"{NAME}, {many:,} tasks": ours()}, many)
    before, after = memory_of_waiting(WAITING)
    bytes_each = (after - before) * 1e6 / WAITING
    return Outcome(
        name="emulator",
        title="Emulators: create while paused, then drain",
        baseline=NAME,
        about=ABOUT,
        charts=(CREATED, DRAINED),
        figures=list(_figures([reference, same, kept, small, large])),
        verdicts=list(_verdicts(reference, same, small, large)),
        notes=[f"A waiting task of 200 bytes takes {bytes_each:,.0f} bytes of memory."],
    )


def _verdicts(
    reference: Result, same: Result, small: Result, large: Result
) -> Iterator[Verdict]:
    for what, ours_, theirs, limit in (
        ("creates", same.creates_per_second, reference.creates_per_second, 1),
        ("drain", same.drains_per_second, reference.drains_per_second, 4),
    ):
        what = f"{what}, over gcloud-tasks-emulator"
        yield Verdict(
            what=what, figure=ours_ / theirs, limit=limit, least=True, reason=REASON
        )
    growth = (large.cpu / large.tasks) / (small.cpu / small.tasks)
    what = f"CPU of a task of {large.tasks:,}, over one of {small.tasks}"
    yield Verdict(what=what, figure=growth, limit=1.25, reason=NEAR)


def _figures(results: list[Result]) -> Iterator[Figure]:
    measures = (
        (CREATED, "a second", lambda one: one.creates_per_second),
        (DRAINED, "a second", lambda one: one.drains_per_second),
        ("CPU of a task", "us", lambda one: one.cpu / one.tasks * 1e6),
    )
    for measure, unit, figure in measures:
        for one in results:
            yield Figure(
                case=one.name,
                measure=measure,
                unit=unit,
                samples=[figure(one)],
                more=unit != "us",
            )


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.emulator")
    parser.add_argument("--quick", action="store_true", help="fewer tasks")
    options = parser.parse_args()
    found = outcome(Effort(quick=options.quick, repeats=1))
    found.show()
    return 0 if found.met else 1


if __name__ == "__main__":
    sys.exit(main())
