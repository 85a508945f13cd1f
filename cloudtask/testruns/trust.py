"""Lets deliveries inside this process be trusted, as those of Google would be.

The project's target still verifies each delivery, with one difference. An HttpTarget
gets another set of certificates: the test run signs tokens with a key of its own. An
AppEngineTarget believes that it is on App Engine, whose front end removes the headers
of strangers.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from copy import copy
from functools import lru_cache
from typing import TYPE_CHECKING

from cloudtask.targets import (
    AppEngineTarget,
    HttpDispatch,
    HttpTarget,
    Target,
    oidc,
    target,
)

if TYPE_CHECKING:
    from cloudtask.emulator.tokens import SigningKey


@lru_cache(maxsize=1)
def _key() -> SigningKey:
    from cloudtask.emulator.tokens import SigningKey

    return SigningKey()


class _Certificates(oidc.Certificates):
    """Has one key, for every issuer."""

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


def trusting(found: Target) -> Target:
    """A target like `found` that trusts deliveries with the tokens of this module, or
    with the headers of App Engine."""
    ours = copy(found)
    if isinstance(ours, AppEngineTarget):
        ours.on_app_engine = True
    elif isinstance(ours, HttpTarget):
        ours.certificates = _Certificates()
    return ours
