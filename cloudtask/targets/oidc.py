"""Verifies OIDC tokens, with certificates that are kept for their lifetime."""

from __future__ import annotations

import json
import logging
import math
import os
import re
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType
from typing import Any

from cloudtask.exceptions import UntrustedRequest

logger = logging.getLogger("cloudtask")

GOOGLE_ISSUERS = ("https://accounts.google.com", "accounts.google.com")
GOOGLE_CERTS = "https://www.googleapis.com/oauth2/v1/certs"
CERTS_PATH = "/oauth2/v1/certs"  # of another issuer: key id -> PEM
CLOCK_SKEW = 10  # seconds by which two clocks may differ
DEFAULT_LIFETIME = 300.0  # seconds, if the answer has none
LONGEST_LIFETIME = 86_400.0  # seconds; Google changes its keys about once a day
PAUSE = 10.0  # seconds between two fetches, whatever keys the tokens name
GRACE = 3600.0  # seconds for which old certificates are used while fetches fail
TIMES = ("iat", "exp", "nbf")  # claims in unix seconds
LATEST = 253_402_300_800  # unix seconds; no datetime is later
TIMEOUT = 5.0  # seconds for a fetch, for which deliveries wait


@dataclass(frozen=True, slots=True)
class _Kept:
    until: float
    pems: Mapping[str, str]


class Certificates:
    """The public certificates of token issuers, by address, for their lifetime.

    They are fetched again after their lifetime, or if a token names an unknown key,
    because keys rotate. At most one fetch is made in PAUSE seconds, so that an attacker
    can't cause a fetch for each request.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self.clear()

    def clear(self) -> None:
        # A new lock: after a fork, a thread that no longer exists may hold the old one.
        self.lock = threading.Lock()
        self.kept: dict[str, _Kept] = {}
        self.tried: dict[str, float] = {}

    def at_hand(self, url: str) -> Mapping[str, str]:
        """The valid certificates that need no fetch; may be empty."""
        kept = self._good(url, None)
        return kept.pems if kept else {}

    def of(self, url: str, key_id: object) -> Mapping[str, str]:
        """PEM texts by key id; `key_id` is missing only if the issuer does not have it.

        Raises UntrustedRequest if no certificates are available.
        """
        if kept := self._good(url, key_id):
            return kept.pems
        with self.lock:
            if kept := self._good(url, key_id):
                return kept.pems
            self._fetch(url)
            found = self.kept.get(url)
        if found is None or self.clock() > found.until + GRACE:
            raise UntrustedRequest("The certificates of the issuer can't be had.")
        return found.pems

    def _good(self, url: str, key_id: object) -> _Kept | None:
        kept = self.kept.get(url)
        if kept is None or self.clock() >= kept.until:
            return None
        return kept if key_id is None or key_id in kept.pems else None

    def _fetch(self, url: str) -> None:
        """Replace the certificates of `url`; a failure keeps the old ones."""
        if self.clock() < self.tried.get(url, float("-inf")) + PAUSE:
            return
        self.tried[url] = self.clock()
        try:
            lifetime, pems = fetch(url)
        except Exception as error:  # noqa: BLE001  no answer is as bad as a wrong one
            logger.warning("Certificates could not be fetched from %s: %s", url, error)
            return
        self.kept[url] = _Kept(self.clock() + lifetime, pems)


def fetch(url: str) -> tuple[float, Mapping[str, str]]:
    """The certificates at `url`, after the seconds for which they are valid."""
    from google.auth.transport.requests import Request

    response = Request()(url, method="GET", timeout=TIMEOUT)
    if response.status != 200:
        raise ValueError(f"the answer was {response.status}")
    pems = json.loads(response.data)
    if not isinstance(pems, dict) or not all(isinstance(v, str) for v in pems.values()):
        raise ValueError("the answer is not a mapping of key ids to PEM")
    return _lifetime(response.headers), pems


def _lifetime(headers: Mapping[str, str]) -> float:
    given = {name.lower(): value for name, value in headers.items()}
    match = re.search(r"max-age=(\d+)", given.get("cache-control", ""))
    if match is None:
        return DEFAULT_LIFETIME
    age = given.get("age", "")
    lifetime = float(match[1]) - (float(age) if age.isdecimal() else 0.0)
    return min(max(lifetime, PAUSE), LONGEST_LIFETIME)


certificates = Certificates()
os.register_at_fork(after_in_child=certificates.clear)


def verified_claims(
    token: str,
    audience: str,
    issuer: str | None,
    certificates: Certificates = certificates,
) -> Mapping[str, Any]:
    """The claims of `token`, if signature, times, audience and issuer are right.

    Raises UntrustedRequest for anything else, also when `certificates` has none.
    """
    url = issuer.rstrip("/") + CERTS_PATH if issuer else GOOGLE_CERTS
    try:
        claims = _decoded(token, audience, certificates.at_hand(url))
    except UntrustedRequest:
        # Its key may be new. Only now may a fetch be needed.
        claims = _decoded(token, audience, certificates.of(url, _key_id(token)))
    if claims.get("iss") not in ((issuer.rstrip("/"),) if issuer else GOOGLE_ISSUERS):
        raise UntrustedRequest("The token was issued by another issuer.")
    return claims


def _decoded(token: str, audience: str, pems: Mapping[str, str]) -> Mapping[str, Any]:
    try:
        claims = _signed(token, audience, tuple(pems.items()))
        now = time.time()
        is_early = max(claims["iat"], claims.get("nbf", 0)) > now + CLOCK_SKEW
        is_late = claims["exp"] < now - CLOCK_SKEW
    except Exception as error:
        # An attacker can choose the bytes of the token. Every error is a refusal, and
        # its text is quoted and shortened.
        text = repr(str(error)[:300])
        raise UntrustedRequest(f"The token is not valid: {text}") from error
    if is_early:
        raise UntrustedRequest("The token is not valid yet.")
    if is_late:
        raise UntrustedRequest("The token has expired.")
    return claims


@lru_cache(maxsize=256)
def _signed(
    token: str, audience: str, pems: tuple[tuple[str, str], ...]
) -> Mapping[str, Any]:
    """The claims of a token with a right signature, for these certificates only.

    A queue sends the same token many times. Only tokens that passed are remembered, so
    nobody else can fill the memory. The caller compares the times each time.
    """
    from google.auth import jwt

    claims: dict[str, Any] = jwt.decode(  # type: ignore[no-untyped-call]
        token, certs=dict(pems), audience=audience, clock_skew_in_seconds=CLOCK_SKEW
    )
    if not all(-LATEST < _number(claims, name) < LATEST for name in TIMES):
        raise ValueError("its times are not moments")
    return MappingProxyType(claims)


def _number(claims: Mapping[str, Any], name: str) -> float:
    """A claim, if it is a number, else NaN. JSON of Python also has Infinity."""
    value = claims.get(name, 0)
    return value if type(value) in (int, float) else math.nan


def _key_id(token: str) -> str | None:
    from google.auth import jwt

    try:
        key_id = jwt.decode_header(token).get("kid")  # type: ignore[no-untyped-call]
    except Exception as error:
        # The message leaves the token out: it may be a valid one of another kind.
        raise UntrustedRequest("The bearer token is not a JSON Web Token.") from error
    if key_id is None or isinstance(key_id, str):
        return key_id
    raise UntrustedRequest("The token names no key.")
