"""How a delivery in this process comes to be trusted: by what Google would have done.

The target verifies as ever. For an HttpTarget the tests sign tokens with a key of their
own, whose certificate stands in for Google's while a delivery is under way; for an
AppEngineTarget the tests are the front end that strips headers of strangers, so that
those they send are App Engine's.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING

from cloudtask.targets import AppEngineTarget, HttpDispatch, HttpTarget, oidc, target

if TYPE_CHECKING:
    from cloudtask.emulator.tokens import SigningKey


@lru_cache(maxsize=1)
def _key() -> SigningKey:
    from cloudtask.emulator.tokens import SigningKey

    return SigningKey()


class _Certificates(oidc.Certificates):
    """Knows one key, whoever is asked."""

    def of(self, url: str, key_id: object) -> Mapping[str, str]:
        return {_key().id: _key().public_pem}


def token(dispatch: HttpDispatch) -> str | None:
    """The bearer token that Cloud Tasks would add to `dispatch`."""
    from cloudtask.emulator.tokens import TokenMaker

    if dispatch.service_account is None:
        return None
    found = target()
    issuer = found.issuer if isinstance(found, HttpTarget) else None
    named = issuer.rstrip("/") if issuer else oidc.GOOGLE_ISSUERS[0]
    maker = TokenMaker(_key(), lambda: named, time.time)
    return maker.oidc(dispatch.service_account, dispatch.audience or dispatch.url)


@contextmanager
def trusted() -> Iterator[None]:
    """Inside the block, the deliveries of this module are told from strangers'."""
    found = target()
    if isinstance(found, AppEngineTarget):
        before, found.on_app_engine = found.on_app_engine, True
        try:
            yield
        finally:
            found.on_app_engine = before
        return
    real = oidc.certificates
    oidc.certificates = _Certificates()
    try:
        yield
    finally:
        oidc.certificates = real
