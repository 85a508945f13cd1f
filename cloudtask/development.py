"""Finds the application and its emulator during development on one machine.

Imports nothing of Django, since manage.py needs it before the settings are read.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Sequence
from ipaddress import IPv4Address, IPv6Address, ip_address
from itertools import pairwise

HOST_VARIABLE = "CLOUD_TASKS_EMULATOR_HOST"
HTTP_VARIABLE = "CLOUDTASK_EMULATOR_URL"  # the issuer of the emulator's tokens
TARGET_VARIABLE = "CLOUDTASK_EMULATOR_TARGET"
SERVING = ("runserver", "runserver_plus", "testserver")
DEFAULT_URL = "http://127.0.0.1:8000"

_ADDRESS = re.compile(r"(?:--addrport=)?(?:(\[[0-9a-fA-F:]+\]|[^-:\[][^:]*):)?(\d+)")
_ANYWHERE = (None, "0", "0.0.0.0", "[::]")  # noqa: S104  names that runserver takes
_IPV6 = {"-6", "--ipv6"}
# Options of the serving commands whose value, the next argument, is no address.
_WITH_VALUE = {
    *("-v", "--verbosity", "--settings", "--pythonpath"),
    *("--reloader-interval", "--truncate-sql", "--extra-file"),
}
_NEAR_SUFFIXES = (".localhost", ".local", ".internal", ".test")


def is_command(argv: Sequence[str], commands: Collection[str]) -> bool:
    """Whether `manage.py` runs one of `commands`: Django takes the first argument."""
    return len(argv) > 1 and argv[1] in commands


def runserver_url(argv: Sequence[str]) -> str | None:
    """Where `manage.py runserver ...` listens; None for other commands."""
    if not is_command(argv, SERVING):
        return None
    here = "[::1]" if _IPV6 & {*argv} else "127.0.0.1"
    for before, argument in pairwise(argv[1:]):
        match = None if before in _WITH_VALUE else _ADDRESS.fullmatch(argument)
        if match is not None:
            host = here if match[1] in _ANYWHERE else match[1]
            return f"http://{host}:{match[2]}"
    return f"http://{here}:8000"


def local_url(url: str, host: str, argv: Sequence[str]) -> str:
    """Where tasks are delivered to beside an emulator, whatever production has.

    CLOUDTASK_EMULATOR_TARGET comes first. Then `url`, if its `host` is of a container
    or another machine of the local network; runserver; `url`, if it is of this machine;
    and port 8000.
    """
    if chosen := os.environ.get(TARGET_VARIABLE):
        return chosen.rstrip("/")
    if is_near(host) and not _is_loopback(host):
        return url
    served = runserver_url(argv)
    return served or (url if _is_loopback(host) else DEFAULT_URL)


def issuer_url(emulator_host: str) -> str:
    """The issuer of the tokens of the emulator at `emulator_host`, "host:port".

    Without CLOUDTASK_EMULATOR_URL it is on the next port, as the emulator does it.
    """
    if chosen := os.environ.get(HTTP_VARIABLE):
        return chosen.rstrip("/")
    host, _, port = emulator_host.rpartition(":")
    return f"http://{host}:{int(port) + 1}" if port.isdecimal() else emulator_host


def is_near(host: str) -> bool:
    """Whether a host is on this machine, in a local network or a set of containers."""
    address = _address(host)
    if address is not None:
        return address.is_private
    return "." not in host or host.endswith(_NEAR_SUFFIXES)


def _is_loopback(host: str) -> bool:
    address = _address(host)
    if address is not None:
        return address.is_loopback
    return host == "localhost" or host.endswith(".localhost")


def _address(host: str) -> IPv4Address | IPv6Address | None:
    try:
        return ip_address(host)
    except ValueError:
        return None
