"""Calls a URL at each full minute, as Cloud Scheduler does.

The headers are those of
https://cloud.google.com/scheduler/docs/reference/rest/v1/projects.locations.jobs#httptarget
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from urllib.parse import urlsplit

from cloudtask.emulator.dispatch.client import HttpClient
from cloudtask.emulator.dispatch.log import DispatchLog, DispatchRecord
from cloudtask.emulator.dispatch.request import Outgoing, Tokens

_MINUTE = 60.0
_DEADLINE = 180.0  # seconds, as Cloud Scheduler's by default
_NAME = "tick"


@dataclass(frozen=True, slots=True, kw_only=True)
class Tick:
    """The URL to call each minute, with `headers` in addition.

    With `account`, the request has an OIDC token of that service account; its audience
    is the origin of the URL by default. A `quiet` one is only noted if it is refused.
    """

    url: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    account: str = ""
    audience: str = ""
    quiet: bool = False

    def request(self, now: float, tokens: Tokens) -> Outgoing:
        """The request for the minute that began at `now`."""
        headers = {
            "User-Agent": "Google-Cloud-Scheduler",
            "X-CloudScheduler": "true",
            "X-CloudScheduler-JobName": _NAME,
            "X-CloudScheduler-ScheduleTime": datetime.fromtimestamp(
                now, UTC
            ).isoformat(),
            **self.headers,
        }
        if self.account:
            parts = urlsplit(self.url)
            audience = self.audience or f"{parts.scheme}://{parts.netloc}"
            headers["Authorization"] = f"Bearer {tokens.oidc(self.account, audience)}"
        return Outgoing("POST", self.url, headers, b"", _DEADLINE)


class Ticker:
    """Makes the calls of a `Tick`, one after the other, until cancelled."""

    def __init__(
        self,
        tick: Tick,
        *,
        tokens: Tokens,
        log: DispatchLog,
        clock: Callable[[], float],
        interval: float = _MINUTE,
    ) -> None:
        self._tick = tick
        self._tokens = tokens
        self._log = log
        self._clock = clock
        self._interval = interval
        self._count = 0

    async def run(self) -> None:
        client = HttpClient()
        try:
            while True:
                moment = (self._clock() // self._interval + 1) * self._interval
                while (wait := moment - self._clock()) > 0:
                    await asyncio.sleep(min(wait, self._interval))
                await self._call(client, moment)
        finally:
            client.close()

    async def _call(self, client: HttpClient, moment: float) -> None:
        self._count += 1
        request = self._tick.request(moment, self._tokens)
        started = self._clock()
        response = await client.send(request)
        if self._tick.quiet and (response.ok or response.status is None):
            return  # the server may not run yet
        self._log.note(
            DispatchRecord(
                task=_NAME,
                attempt=self._count,
                method=request.method,
                url=request.url,
                headers=request.headers,
                status=response.status,
                verdict="done" if response.ok else "failed",
                started=started,
                duration=self._clock() - started,
                problem=response.problem,
            )
        )
