"""The command line of `cloudtask-emulator` and of `manage.py`."""

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
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from cloudtask.emulator.dispatch import Tick, parse_chaos
from cloudtask.emulator.options import (
    DEFAULT_TARGET,
    Options,
    Settings,
    declare,
    parse_options,
    read_options,
    read_queue_yaml,
    seconds,
)
from cloudtask.emulator.serving import Engine, Server
from cloudtask.emulator.tokens import load_key

DEFAULT_PORT = 8123
DEFAULT_PROJECT = DEFAULT_LOCATION = "local"

Write = Callable[[str], None]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options; `settings_from` reads their values."""
    add = parser.add_argument
    add("--host", default="127.0.0.1", help="address to listen on (%(default)s)")
    add("--port", type=int, default=DEFAULT_PORT, help="gRPC port (%(default)s)")
    add("--http-port", type=int, help="REST and status page (port + 1)")
    add("--target", help="base URL of App Engine tasks")
    add(
        "--service",
        action="append",
        default=[],
        metavar="NAME=URL",
        help="another base URL for an App Engine service; repeatable",
    )
    add(
        "--queue",
        action="append",
        default=[],
        metavar="NAME",
        help="a queue to make, an id or a full name with options, "
        "such as mail or mail,rate=5/s,max_attempts=3; repeatable",
    )
    add(
        "--queue-defaults",
        default="",
        metavar="OPTIONS",
        help="options of all queues, such as backoff=1s..10m,tombstone=1h",
    )
    add("--queue-yaml", type=Path, metavar="FILE", help="an App Engine queue.yaml")
    add("--project", help="project of queues given by id (local)")
    add("--location", help="location of queues given by id (local)")
    add("--no-rate-limits", action="store_true", help="dispatch as fast as it goes")
    add(
        "--queue-tombstone",
        default="3d",
        metavar="TIME",
        help="how long the name of a deleted queue stays taken (%(default)s)",
    )
    add("--data", type=Path, metavar="FILE", help="keep queued tasks in this file")
    add("--chaos", metavar="SPEC", help="e.g. duplicate=0.02,delay=0.05,reorder,seed=7")
    add("--tick", metavar="URL", help="a URL to call each minute, as Cloud Scheduler")
    add(
        "--tick-header",
        action="append",
        default=[],
        metavar="NAME:VALUE",
        help="a header for it; repeatable",
    )
    add("--tick-account", default="", metavar="EMAIL", help="account of its OIDC token")
    add("--tick-audience", default="", help="audience of the token (the URL's origin)")
    add("--token-key", type=Path, metavar="FILE", help="RSA private key of OIDC tokens")
    add("--issuer", default="", help="issuer of OIDC tokens (the HTTP address)")
    add("--allow-remote", action="store_true", help="let other machines in")
    add("--quiet", action="store_true", help="no line per dispatch")
    add("--announce", type=Path, metavar="FILE", help=argparse.SUPPRESS)
    add("--until-stdin-closes", action="store_true", help=argparse.SUPPRESS)


def settings_from(
    options: dict[str, Any],
    write: Write,
    *,
    queues: dict[str, Options] | None = None,
    target: str = DEFAULT_TARGET,
) -> Settings:
    """The settings that the parsed options mean; `queues` are added to them.

    Raises `ValueError` or `OSError` with what to correct.
    """
    port, http_port = options["port"], options["http_port"]
    defaults = parse_options(options["queue_defaults"])
    config = read_options("--queue-defaults", defaults).config
    if "paused" in defaults:
        raise ValueError("--queue-defaults: paused is an option of one queue only.")
    return Settings(
        host=options["host"],
        port=port,
        http_port=http_port if http_port is not None else port and port + 1,
        target=options["target"] or target,
        services=dict(_service(each) for each in options["service"]),
        queues=declare(
            _queues(options, queues or {}, defaults) or {"default": {}},
            project=options["project"] or DEFAULT_PROJECT,
            location=options["location"] or DEFAULT_LOCATION,
            defaults=config,
        ),
        queue_defaults=config,
        queue_tombstone=seconds(options["queue_tombstone"]),
        rate_limits=not options["no_rate_limits"],
        data=options["data"],
        chaos=parse_chaos(options["chaos"]) if options["chaos"] else None,
        tick=_tick(options),
        token_key=_token_key(options["token_key"]),
        issuer=options["issuer"],
        allow_remote=options["allow_remote"],
        listener=None if options["quiet"] else lambda record: write(str(record)),
    )


def _queues(
    options: dict[str, Any], given: Mapping[str, Options], defaults: Options
) -> dict[str, Options]:
    """The given queues, and in addition those of the options."""
    queues: dict[str, Options] = dict(given)
    if options["queue_yaml"]:
        for name, found in read_queue_yaml(options["queue_yaml"]).items():
            # How long names stay taken is no part of a queue.yaml.
            own = {k: v for k, v in found.items() if k != "tombstone"}
            queues[name] = own if "tombstone" in defaults else found
    for text in options["queue"]:
        name, _, own_text = text.partition(",")
        queues[name] = {**queues.get(name, {}), **parse_options(own_text)}
    return queues


def serve(
    settings: Settings,
    write: Write,
    *,
    announce: Path | None = None,
    until_stdin_closes: bool = False,
) -> None:
    """Run until SIGINT or SIGTERM, or until the parent process ends.

    `OSError` when it can't start.
    """
    with asyncio.Runner() as runner:
        runner.run(_serve(settings, write, announce, until_stdin_closes))


async def _serve(
    settings: Settings, write: Write, announce: Path | None, until_stdin_closes: bool
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
            for name in sorted(engine.state.queues):
                write(f"Queue: {name}")
            if announce is not None:
                _announce(announce, engine)
            if until_stdin_closes:
                _watch_stdin(stop)
            await stop.wait()
        finally:
            await server.stop()
    write("Stopped.")


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


def _tick(options: dict[str, Any]) -> Tick | None:
    if not options["tick"]:
        own = ("tick_header", "tick_account", "tick_audience")
        if any(options[name] for name in own):
            raise ValueError("--tick-header, -account and -audience need --tick URL.")
        return None
    return Tick(
        url=options["tick"],
        headers=dict(_header(each) for each in options["tick_header"]),
        account=options["tick_account"],
        audience=options["tick_audience"],
    )


def _header(text: str) -> tuple[str, str]:
    name, separator, value = (part.strip() for part in text.partition(":"))
    if not separator or not name:
        raise ValueError(f"--tick-header {text!r} is not NAME:VALUE.")
    return name, value


def _token_key(path: Path | None) -> bytes | None:
    if path is None:
        return None
    pem = path.read_bytes()
    load_key(pem)
    return pem


def _service(text: str) -> tuple[str, str]:
    name, separator, url = text.partition("=")
    if not separator:
        raise ValueError(f"--service {text!r} is not NAME=URL.")
    return name, url


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
        parser.exit(2, f"{parser.prog}: {error}\n")
    return 0
