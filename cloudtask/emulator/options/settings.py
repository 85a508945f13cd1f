"""The settings of an emulator, checked."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from cloudtask.emulator.dispatch import Chaos, DispatchRecord, Tick
from cloudtask.emulator.options.queues import Declared
from cloudtask.emulator.protocol.names import is_loopback
from cloudtask.emulator.queues import QueueConfig

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
