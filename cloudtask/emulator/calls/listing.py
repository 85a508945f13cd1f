"""Lists one page of sorted names, and reads the filter of ListQueues."""

from __future__ import annotations

import base64
import binascii
import bisect
import hashlib
import re
from collections.abc import Callable, Sequence

from cloudtask.emulator.protocol import errors
from cloudtask.emulator.queues import Queue

_STATE = re.compile(r"\s*state\s*[:=]\s*\"?(?P<state>[A-Za-z_]+)\"?\s*")


def page(
    items: Sequence[str], *, size: int, limit: int, token: str, scope: str
) -> tuple[Sequence[str], str]:
    """(the items of this page, the token of the next or "").

    `items` are sorted; `size` 0 means `limit`, more is cut to `limit`; `scope` names
    the listing. A wrong token or a negative size is `ApiError` INVALID_ARGUMENT.

    A token names the last item that was shown, so that pages stay right when items are
    added and deleted in between. It also carries the scope, since the service refuses a
    token with another filter.
    """
    if size < 0:
        raise errors.invalid("page_size cannot be negative.")
    size = min(size or limit, limit)
    start = bisect.bisect_right(items, _last_shown(token, scope)) if token else 0
    chosen = items[start : start + size]
    if start + size >= len(items):
        return chosen, ""
    return chosen, _token(chosen[-1], scope)


def queue_filter(text: str) -> Callable[[Queue], bool]:
    """The test that `ListQueuesRequest.filter` means; only "state: PAUSED" is known.

    Any other filter is `ApiError` INVALID_ARGUMENT: a client that asks for some queues
    must not be given all.
    """
    if not text.strip():
        return lambda _: True
    match = _STATE.fullmatch(text)
    if match is None:
        raise errors.invalid(
            f"Invalid filter: {text!r}. The emulator knows filters by state alone, "
            "such as 'state: PAUSED'."
        )
    wanted = match["state"].upper()
    return lambda queue: wanted == ("PAUSED" if queue.paused else "RUNNING")


def _token(last: str, scope: str) -> str:
    return base64.urlsafe_b64encode(f"{_digest(scope)} {last}".encode()).decode()


def _last_shown(token: str, scope: str) -> str:
    try:
        digest, _, last = base64.urlsafe_b64decode(token).decode().partition(" ")
    except (binascii.Error, ValueError):
        raise errors.invalid("Invalid page token.") from None
    if digest != _digest(scope):
        raise errors.invalid("The page token is for another listing.")
    return last


def _digest(scope: str) -> str:
    return hashlib.sha256(scope.encode()).hexdigest()[:12]
