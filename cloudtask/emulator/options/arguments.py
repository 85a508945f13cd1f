"""The options of the command line, and the settings that they mean."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from cloudtask.emulator.dispatch import Tick, parse_chaos
from cloudtask.emulator.options.queues import (
    Options,
    declare,
    parse_options,
    read_options,
    read_queue_yaml,
    seconds,
)
from cloudtask.emulator.options.settings import DEFAULT_TARGET, Settings
from cloudtask.emulator.tokens import load_key

DEFAULT_PORT = 8123
DEFAULT_PROJECT = DEFAULT_LOCATION = "local"

Write = Callable[[str], None]

_LIST: dict[str, Any] = {"action": "append", "default": []}
_FLAG: dict[str, Any] = {"action": "store_true"}
_FILE: dict[str, Any] = {"type": Path, "metavar": "FILE"}
# For programs that start the emulator and wait for it, such as `cloudtask.sandbox`.
_HIDDEN: dict[str, Any] = {"help": argparse.SUPPRESS}

_ARGUMENTS: dict[str, dict[str, Any]] = {
    "--host": {"default": "127.0.0.1", "help": "address to listen on (%(default)s)"},
    "--port": {
        "type": int,
        "default": DEFAULT_PORT,
        "metavar": "PORT",
        "help": "gRPC port (%(default)s); 0 is any free one",
    },
    "--http-port": {
        "type": int,
        "metavar": "PORT",
        "help": "port of REST and the status page (gRPC's + 1)",
    },
    "--target": {"metavar": "URL", "help": "base URL of App Engine tasks"},
    "--service": {
        **_LIST,
        "metavar": "NAME=URL",
        "help": "another base URL for one App Engine service; repeatable",
    },
    "--queue": {
        **_LIST,
        "metavar": "NAME",
        "help": "a queue to make, an id or a full name with options, such as mail or "
        "mail,rate=5/s,max_attempts=3; repeatable",
    },
    "--queue-defaults": {
        "default": "",
        "metavar": "OPTIONS",
        "help": "options of all queues, such as backoff=1s..10m,tombstone=1h",
    },
    "--queue-yaml": {**_FILE, "help": "make the queues of an App Engine queue.yaml"},
    "--queue-tombstone": {
        "default": "3d",
        "metavar": "TIME",
        "help": "how long the name of a deleted queue stays taken (%(default)s)",
    },
    "--project": {"help": "project of queues given by id (local)"},
    "--location": {"help": "location of queues given by id (local)"},
    "--no-rate-limits": {**_FLAG, "help": "dispatch as fast as the target answers"},
    "--data": {**_FILE, "help": "keep queues and tasks in this SQLite file"},
    "--chaos": {
        "metavar": "SPEC",
        "help": "misbehave, such as duplicate=0.02,delay=0.05,reorder,seed=7",
    },
    "--tick": {
        "metavar": "URL",
        "help": "call a URL each minute, as Cloud Scheduler does",
    },
    "--tick-header": {
        **_LIST,
        "metavar": "NAME:VALUE",
        "help": "a header of that call; repeatable",
    },
    "--tick-account": {
        "default": "",
        "metavar": "EMAIL",
        "help": "account of its OIDC token",
    },
    "--tick-audience": {
        "default": "",
        "metavar": "TEXT",
        "help": "audience of its token (the origin of the URL)",
    },
    "--token-key": {**_FILE, "help": "RSA private key (PEM) that signs OIDC tokens"},
    "--issuer": {
        "default": "",
        "metavar": "URL",
        "help": "issuer of OIDC tokens (the HTTP address)",
    },
    "--allow-remote": {**_FLAG, "help": "let other machines in"},
    "--quiet": {**_FLAG, "help": "print no line for each dispatch"},
    "--announce": {**_FILE, **_HIDDEN},
    "--until-stdin-closes": {**_FLAG, **_HIDDEN},
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options; `settings_from` reads their values."""
    for name, more in _ARGUMENTS.items():
        parser.add_argument(name, **more)


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
