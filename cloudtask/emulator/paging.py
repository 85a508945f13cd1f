"""Pages of a sorted listing.

A token names the last item that was shown, so that a page is right even when items came
and went in between; it also carries what was listed, since the service refuses a token
with another filter.
"""

from __future__ import annotations

import base64
import binascii
import bisect
import hashlib
from collections.abc import Sequence

from cloudtask.emulator import errors


def page(
    items: Sequence[str], *, size: int, limit: int, token: str, scope: str
) -> tuple[Sequence[str], str]:
    """(the items of this page, the token of the next or "").

    `items` are sorted; `size` 0 means `limit`, more is cut to `limit`; `scope` names
    the listing. A wrong token or a negative size is `ApiError` INVALID_ARGUMENT.
    """
    if size < 0:
        raise errors.invalid("page_size cannot be negative.")
    size = min(size or limit, limit)
    start = bisect.bisect_right(items, _last_shown(token, scope)) if token else 0
    chosen = items[start : start + size]
    if start + size >= len(items):
        return chosen, ""
    return chosen, _token(chosen[-1], scope)


def _token(last: str, scope: str) -> str:
    return base64.urlsafe_b64encode(f"{_digest(scope)} {last}".encode()).decode()


def _last_shown(token: str, scope: str) -> str:
    try:
        digest, _, last = base64.urlsafe_b64decode(token).decode().partition(" ")
    except (binascii.Error, UnicodeDecodeError):
        raise errors.invalid("Invalid page token.") from None
    if digest != _digest(scope):
        raise errors.invalid("The page token is for another listing.")
    return last


def _digest(scope: str) -> str:
    return hashlib.sha256(scope.encode()).hexdigest()[:12]
