"""Runs the command line of `cloudtask-emulator` and of `manage.py`."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import json
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

from cloudtask.emulator.options import (
    DEFAULT_TARGET,
    Settings,
    Write,
    add_arguments,
    settings_from,
)
from cloudtask.emulator.serving import Engine, PortTaken, Server

__all__ = ["add_arguments", "main", "serve", "settings_from", "status_of"]

PORT_TAKEN = 3  # cloudtask.sandbox takes another port then


def serve(
    settings: Settings,
    write: Write,
    *,
    announce: Path | None = None,
    until_stdin_closes: bool = False,
    notes: Sequence[str] = (),
) -> None:
    """Run until SIGINT or SIGTERM, or until the parent process ends.

    Writes `notes` below its addresses. `OSError` when it can't start.
    """
    with asyncio.Runner() as runner:
        runner.run(_serve(settings, write, notes, announce, until_stdin_closes))


async def _serve(
    settings: Settings,
    write: Write,
    notes: Sequence[str],
    announce: Path | None,
    until_stdin_closes: bool,
) -> None:
    stop = asyncio.Event()
    server = Server(settings)
    engine = server.engine
    with _stopped_by_signals(stop, ignore_interrupt=until_stdin_closes):
        await server.start()
        # Many tasks stay for a long time: there is little garbage among them.
        gc.freeze()
        gc.set_threshold(20_000, 20, 50)
        try:
            write(f"Cloud Tasks emulator: gRPC on {engine.address}")
            write(f"REST and status page: {engine.http_address}/")
            for line in _guidance(engine, notes, is_ours=until_stdin_closes):
                write(line)
            if announce is not None:
                _announce(announce, engine)
            if until_stdin_closes:
                _watch_stdin(stop)
            await stop.wait()
        finally:
            await server.stop()
    write("Stopped.")


def _guidance(engine: Engine, notes: Sequence[str], *, is_ours: bool) -> Iterator[str]:
    """The queues, where tasks go, and what an application or another shell needs."""
    for name in sorted(engine.state.queues):
        yield f"Queue: {name}"
    yield from notes
    target = engine.settings.target
    yield f"App Engine tasks go to {target}. HTTP tasks go to the URLs that they name."
    if is_ours:
        # The address of runserver matters only where it is not the default.
        rest = (
            "" if target == DEFAULT_TARGET else f" CLOUDTASK_EMULATOR_TARGET={target}"
        )
        address = f"CLOUD_TASKS_EMULATOR_HOST={engine.address}"
        yield f"For another shell: export {address}{rest}"
        return
    yield "Those of cloudtask name this machine: the port of runserver, else 8000."
    yield "For your application:"
    yield f"  export CLOUD_TASKS_EMULATOR_HOST={engine.address}"
    yield f"  export CLOUDTASK_EMULATOR_URL={engine.http_address}"


@contextlib.contextmanager
def _stopped_by_signals(
    stop: asyncio.Event, *, ignore_interrupt: bool
) -> Iterator[None]:
    """SIGTERM and SIGINT end it in order; a parent may reserve Ctrl-C for itself."""
    loop = asyncio.get_running_loop()

    def on_signal(number: int, _: object) -> None:
        if number == signal.SIGINT and ignore_interrupt:
            return
        loop.call_soon_threadsafe(stop.set)

    numbers = (signal.SIGINT, signal.SIGTERM)
    before = {number: signal.signal(number, on_signal) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _watch_stdin(stop: asyncio.Event) -> None:
    loop = asyncio.get_running_loop()

    def wait() -> None:
        while os.read(0, 4096):
            pass
        with contextlib.suppress(RuntimeError):  # the loop may have ended first
            loop.call_soon_threadsafe(stop.set)

    threading.Thread(target=wait, name="watch-stdin", daemon=True).start()


def _announce(path: Path, engine: Engine) -> None:
    """Write the ports to a file, which appears complete or not at all."""
    partial = path.with_suffix(".partial")
    facts = {"address": engine.address, "http_address": engine.http_address}
    partial.write_text(json.dumps(facts), encoding="utf-8")
    partial.replace(path)


def _print(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main(arguments: list[str] | None = None) -> int:
    """Entry point; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="cloudtask-emulator", description="A local Google Cloud Tasks."
    )
    add_arguments(parser)
    options = parser.parse_args(arguments)
    try:
        serve(
            settings_from(vars(options), _print),
            _print,
            announce=options.announce,
            until_stdin_closes=options.until_stdin_closes,
        )
    except (OSError, ValueError) as error:
        parser.exit(status_of(error), f"{parser.prog}: {error}\n")
    return 0


def status_of(error: Exception) -> int:
    """The exit status that tells a program why the emulator did not start."""
    return PORT_TAKEN if isinstance(error, PortTaken) else 2
