"""Reads the address of a call: a path of this service, or the origin of another one.

Whatever could be read in two ways is refused: user names, backslashes, hosts that are
not ASCII. The text of an address may hold a token, so no error repeats it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv6Address

PORTS = {"http": 80, "https": 443}
_AUTHORITY = re.compile(r"(https?)://([^/?#]*)")
_LABEL = re.compile(r"[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?")
_PORT = re.compile(r"[0-9]{1,5}")


@dataclass(frozen=True, slots=True)
class Origin:
    """Scheme, host and port; the host is lower case, and has no brackets."""

    scheme: str
    host: str
    port: int

    def __str__(self) -> str:
        """As browsers and OIDC audiences write it, without the scheme's own port."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        port = "" if self.port == PORTS[self.scheme] else f":{self.port}"
        return f"{self.scheme}://{host}{port}"


def origin_of(url: str) -> Origin | None:
    """The origin of an address; None for a path. Raises ValueError for all else."""
    if not url.isprintable() or " " in url or "\\" in url:
        raise ValueError("must have no spaces, control characters or backslashes")
    if url.startswith("//"):
        raise ValueError("must not start with two slashes")
    if url.startswith("/"):
        return None
    match = _AUTHORITY.match(url)
    if match is None:
        raise ValueError(
            "must be a path that starts with / or an address that starts with https:// "
            "or http://"
        )
    return Origin(match[1], *_host_and_port(match[2], PORTS[match[1]]))


def _host_and_port(authority: str, default: int) -> tuple[str, int]:
    if "@" in authority:
        raise ValueError("must have no user name or password")
    if not authority.isascii():
        raise ValueError("must have a host in ASCII: write xn--... for other letters")
    host, port = _split(authority)
    if port is None:
        return _host(host), default
    if not _PORT.fullmatch(port) or not 0 < int(port) < 65536:
        raise ValueError("must have a port from 1 to 65535, or none")
    return _host(host), int(port)


def _split(authority: str) -> tuple[str, str | None]:
    host, colon, port = authority.rpartition(":")
    if not colon or authority.endswith("]"):
        return authority, None
    return host, port


def _host(text: str) -> str:
    if text.startswith("[") and text.endswith("]") and "%" not in text:
        try:
            return IPv6Address(text[1:-1]).compressed
        except AddressValueError as error:
            raise ValueError("must have a proper IPv6 address") from error
    host = text.lower()
    if not all(_LABEL.fullmatch(label) for label in host.split(".")):
        raise ValueError("must have a host name or an IP address")
    return host


@dataclass(frozen=True, slots=True)
class Allowed:
    """An entry of CLOUDTASK["ALLOWED_URLS"]: a host, a host with port, or an origin.

    A host that begins with a dot stands for its subdomains too.
    """

    host: str
    port: int | None = None
    scheme: str | None = None

    def matches(self, origin: Origin) -> bool:
        """Whether `origin` is what this entry allows."""
        if self.scheme not in (None, origin.scheme):
            return False
        if self.port not in (None, origin.port):
            return False
        if self.host.startswith("."):
            return f".{origin.host}".endswith(self.host)
        return origin.host == self.host


def allowed(entry: str) -> Allowed:
    """The meaning of an entry of CLOUDTASK["ALLOWED_URLS"]; raises ValueError."""
    if "://" in entry:
        origin = origin_of(entry)
        if origin is None or _AUTHORITY.sub("", entry) not in ("", "/"):
            raise ValueError("must be an origin, without a path")
        return Allowed(origin.host, origin.port, origin.scheme)
    dot = "." if entry.startswith(".") else ""
    bare = entry.removeprefix(".")
    host, port = _host_and_port(bare, PORTS["https"])
    return Allowed(dot + host, None if _split(bare)[1] is None else port)
