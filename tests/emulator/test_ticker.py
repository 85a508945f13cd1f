"""The call of each minute."""

from __future__ import annotations

import asyncio
import time

from google.oauth2 import id_token

from cloudtask.emulator import DispatchRecord, Tick
from cloudtask.emulator.dispatch import DispatchLog, Ticker
from cloudtask.emulator.tokens import SigningKey, TokenMaker
from tests.emulator.sink import Sink

TOKENS = TokenMaker(SigningKey(), lambda: "http://issuer", time.time)


def ticked(tick: Tick, count: int) -> tuple[list[DispatchRecord], DispatchLog]:
    """The records of the first calls, of a clock whose minute is short."""
    seen: list[DispatchRecord] = []

    async def run() -> None:
        done = asyncio.Event()

        def listen(record: DispatchRecord) -> None:
            seen.append(record)
            if len(seen) == count:
                done.set()

        log = DispatchLog(listen)
        ticker = Ticker(tick, tokens=TOKENS, log=log, clock=time.time, interval=0.01)
        task = asyncio.create_task(ticker.run())
        await done.wait()
        task.cancel()
        await asyncio.wait([task])
        logs.append(log)

    logs: list[DispatchLog] = []
    asyncio.run(run())
    return seen, logs[0]


def test_a_quiet_tick_is_noted_only_when_it_is_refused(sink: Sink) -> None:
    url = sink.answer("/relay", 200, 200, 403)
    records, _ = ticked(Tick(url=url, quiet=True), 1)

    assert [record.status for record in records] == [403]
    assert len(sink.requests) >= 3


def test_a_url_is_called_again_and_again_as_cloud_scheduler_does(sink: Sink) -> None:
    tick = Tick(url=sink.url + "/relay", headers={"Authorization": "Bearer mine"})

    records, log = ticked(tick, 3)

    assert [record.attempt for record in records] == [1, 2, 3]
    assert str(records[0]).startswith(f"tick attempt 1 POST {sink.url}/relay -> 200")
    request = sink.requests[0]
    assert (request.method, request.path, request.body) == ("POST", "/relay", b"")
    assert request.headers["X-CloudScheduler"] == "true"
    assert request.headers["User-Agent"] == "Google-Cloud-Scheduler"
    assert request.headers["Authorization"] == "Bearer mine"
    moments = [r.headers["X-CloudScheduler-ScheduleTime"] for r in sink.requests]
    assert len(set(moments)) == len(moments)
    assert not log.errors
    assert not log.records


def test_an_account_signs_for_the_origin_of_the_url(emulator, sink: Sink) -> None:
    ticked(Tick(url=sink.url + "/relay", account="tick@p.example"), 1)

    token = sink.requests[0].headers["Authorization"].removeprefix("Bearer ")
    claims = id_token.jwt.decode(token, verify=False)  # type: ignore[attr-defined]
    assert (claims["aud"], claims["email"]) == (sink.url, "tick@p.example")


def test_a_call_that_fails_is_a_failure_in_the_log(sink: Sink) -> None:
    _, log = ticked(Tick(url=sink.answer("/relay", 500)), 1)

    assert [record.status for record in log.errors] == [500]
