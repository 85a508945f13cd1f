"""Checks the settings of an emulator, and reads them from the command line."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from cloudtask.emulator.dispatch import Chaos, DispatchRecord, Tick, parse_chaos
from cloudtask.emulator.options.queues import (
    Declared,
    Options,
    declare,
    parse_options,
    read_options,
    read_queue_yaml,
    seconds,
)
from cloudtask.emulator.protocol.names import is_loopback
from cloudtask.emulator.queues import QueueConfig
from cloudtask.emulator.tokens import load_key

DEFAULT_TARGET = "http://127.0.0.1:8000"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The choices that last as long as an emulator runs.

    A port of 0 is any free one. `services` maps App Engine services to base URLs of
    their own. `data` is the SQLite file that keeps the queued tasks. `issuer` is that
    of OIDC tokens; the HTTP address when empty. `queue_defaults` is for queues that
    clients create. `queue_tombstone` is in seconds. `token_key` is the private key
    that signs OIDC tokens, in PEM; one of the emulator's own when None.
    """

    host: str = "127.0.0.1"
    port: int = 0
    http_port: int = 0
    target: str = DEFAULT_TARGET
    services: Mapping[str, str] = field(default_factory=dict)
    queues: Mapping[str, Declared] = field(default_factory=dict)
    rate_limits: bool = True
    data: Path | None = None
    chaos: Chaos | None = None
    tick: Tick | None = None
    token_key: bytes | None = None
    projects: Collection[str] | None = None
    issuer: str = ""
    allow_remote: bool = False
    queue_defaults: QueueConfig = field(default_factory=QueueConfig)
    queue_tombstone: float = 3 * 86_400.0
    listener: Callable[[DispatchRecord], None] | None = None

    def __post_init__(self) -> None:
        if not self.allow_remote and not is_loopback(self.host):
            raise ValueError(
                f"{self.host!r} can be reached from other machines, and anyone who "
                "reaches an emulator can make it call any URL. Use 127.0.0.1, or allow "
                "it with allow_remote (--allow-remote)."
            )
        _check_ports(self.port, self.http_port)
        own = [] if self.tick is None else [self.tick.url]
        for url in (self.target, *self.services.values(), *own):
            _check_url(url)


def _check_ports(port: int, http_port: int) -> None:
    for each in (port, http_port):
        if not 0 <= each <= 65_535:
            raise ValueError(f"The port {each} is not in 0 to 65535.")
    if port and port == http_port:
        raise ValueError(f"gRPC and HTTP need a port each, not {port} for both.")


def _check_url(url: str) -> None:
    if not url.startswith(("http://", "https://")):
        raise ValueError(f"The target {url!r} must start with http:// or https://.")
    try:
        host = urlsplit(url).hostname
    except ValueError:
        host = None
    if not host:
        raise ValueError(f"The target {url!r} names no host.")


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
    config, declared = _declared(options, queues or {})
    return Settings(
        host=options["host"],
        port=options["port"],
        http_port=_http_port(options["port"], options["http_port"]),
        target=options["target"] or target,
        services=dict(_service(each) for each in options["service"]),
        queues=declared,
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


def _http_port(port: int, chosen: int | None) -> int:
    """The port that was chosen, else that after gRPC's; 0 is any free one."""
    if chosen is not None:
        return chosen
    return port + 1 if port else 0


def _declared(
    options: dict[str, Any], given: Mapping[str, Options]
) -> tuple[QueueConfig, Mapping[str, Declared]]:
    """The configuration of new queues, and the queues to make at the start."""
    defaults = parse_options(options["queue_defaults"])
    config = read_options("--queue-defaults", defaults).config
    if "paused" in defaults:
        raise ValueError("--queue-defaults: paused is an option of one queue only.")
    queues = declare(
        _queues(options, given, defaults) or {"default": {}},
        project=options["project"] or DEFAULT_PROJECT,
        location=options["location"] or DEFAULT_LOCATION,
        defaults=config,
    )
    return config, queues


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
        raise ValueError("A --tick-header is not NAME:VALUE.")
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
