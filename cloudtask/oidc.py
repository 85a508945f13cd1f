"""Google's OIDC tokens, verified with certificates that are kept for their lifetime."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from cloudtask.exceptions import UntrustedRequest

GOOGLE_ISSUERS = ("https://accounts.google.com", "accounts.google.com")
GOOGLE_CERTS = "https://www.googleapis.com/oauth2/v1/certs"
CERTS_PATH = "/oauth2/v1/certs"  # of another issuer: key id -> PEM
CLOCK_SKEW = 10  # seconds by which two clocks may differ
DEFAULT_LIFETIME = 300.0  # seconds, when the answer names none


class CachedCertificates:
    """A google.auth transport request that remembers what it fetched.

    google-auth fetches the certificates for every token; they change about once a day
    and say in Cache-Control how long they are good.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock = clock
        self.lock = threading.Lock()
        self.kept: dict[str, tuple[float, Any]] = {}

    def __call__(self, url: str, method: str = "GET", **kwargs: Any) -> Any:
        with self.lock:
            until, response = self.kept.get(url, (0.0, None))
            if response is None or self.clock() >= until:
                response = fetch(url, method, **kwargs)
                if response.status == 200:
                    lifetime = _lifetime(response.headers)
                    self.kept[url] = (self.clock() + lifetime, response)
            return response

    def clear(self) -> None:
        self.kept.clear()


def fetch(url: str, method: str, **kwargs: Any) -> Any:
    """One GET by google-auth's own transport."""
    from google.auth.transport.requests import Request

    return Request()(url, method=method, **kwargs)


def _lifetime(headers: Mapping[str, str]) -> float:
    cache_control = {k.lower(): v for k, v in headers.items()}.get("cache-control", "")
    match = re.search(r"max-age=(\d+)", cache_control)
    return float(match[1]) if match else DEFAULT_LIFETIME


certificates = CachedCertificates()


def verified_claims(token: str, audience: str, issuer: str | None) -> Mapping[str, Any]:
    """The claims of `token`, once signature, expiry, audience and issuer are right.

    Raises UntrustedRequest for anything else, also when the certificates can't be had.
    """
    from google.auth import exceptions
    from google.oauth2 import id_token

    certs_url = issuer.rstrip("/") + CERTS_PATH if issuer else GOOGLE_CERTS
    try:
        claims: Mapping[str, Any] = id_token.verify_token(
            token,
            certificates,
            audience=audience,
            certs_url=certs_url,
            clock_skew_in_seconds=CLOCK_SKEW,
        )
    except (ValueError, exceptions.GoogleAuthError) as error:
        raise UntrustedRequest(f"The bearer token is not valid: {error}") from error
    if claims.get("iss") not in ((issuer.rstrip("/"),) if issuer else GOOGLE_ISSUERS):
        raise UntrustedRequest("The token was issued by somebody else.")
    return claims
