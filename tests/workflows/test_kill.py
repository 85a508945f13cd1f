"""gunicorn workers are killed in the middle of a group of chains, for real.

With CLOUDTASK_TEST_FULL_LENGTH=1 the exhaustive test has 2,000 members, and kills for a
minute.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest
from django.db import connection

from cloudtask import Receipt, chain, group
from cloudtask.models import OutboxMessage, WorkflowMember
from cloudtask.sending.relay import relay_all
from tests.iteration import tasks
from tests.iteration.models import Effect
from tests.iteration.workers import Server, effects, served

IS_FULL = os.environ.get("CLOUDTASK_TEST_FULL_LENGTH") == "1"
KILL_EVERY = 1.3  # seconds
PATIENCE = 600.0  # seconds without any progress

pytestmark = [
    pytest.mark.acceptance,
    pytest.mark.django_db(databases=["default", "other"]),
    pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="it needs Linux"),
]


def deferred(members: int, seconds: float) -> Receipt[Any]:
    """A group of chains of three, whose second step has an effect.

    They begin one after the other, so that workers are killed in all steps.
    """
    parts = (
        chain(
            tasks.begin.using(countdown=seconds * number / members).s(number),
            tasks.leave_effect.s(),
            tasks.finish.s(),
        )
        for number in range(members)
    )
    return group(parts).then(tasks.gather.s()).defer()


def is_over() -> bool:
    return Effect.objects.filter(key="finalize").exists()


def wait_for(receipt: Receipt[Any], server: Server) -> Any:
    """Relay as a cron job does, until the end or until nothing goes on any more."""
    before, since = -1, time.monotonic()
    while not is_over():
        relay_all()
        done = Effect.objects.count() + WorkflowMember.objects.count()
        if done != before:
            before, since = done, time.monotonic()
        assert time.monotonic() < since + PATIENCE, server.log.read_text()[-2000:]
        time.sleep(0.5)
    return receipt.result(timeout=PATIENCE)


def killed(folder: Path, monkeypatch: Any, members: int, seconds: float) -> None:
    # What a worker must import would take longer than it lives.
    arguments = ("--preload", "--workers=3", "--timeout=600")
    with served(folder, monkeypatch, *arguments) as server:
        started = time.monotonic()
        receipt = deferred(members, seconds * 0.8)
        with server.killing(every=KILL_EVERY, seed=11):
            while time.monotonic() < started + seconds and not is_over():
                relay_all()
                time.sleep(0.2)
        at_last_kill = Effect.objects.count()
        result = wait_for(receipt, server)
        took = time.monotonic() - started

        assert server.killed
        assert result == [2 * number + 1 for number in range(members)]
        assert effects() == (members, members, 1)
        assert OutboxMessage.objects.filter(state="parked").count() == 0
    print(
        f"\n{connection.vendor}: {len(server.killed)} workers killed until "
        f"{at_last_kill:,} of {members:,} members had their effect; each effect once, "
        f"then once with {len(result):,} right results in order, in {took:.0f} s"
    )


def test_a_group_of_chains_survives_kills(tmp_path: Path, monkeypatch: Any) -> None:
    if connection.vendor != "postgresql":
        pytest.skip("it needs a server of databases")
    killed(tmp_path, monkeypatch, members=150, seconds=10)


@pytest.mark.exhaustive
def test_a_large_group_of_chains_survives_a_minute_of_kills(
    tmp_path: Path, monkeypatch: Any
) -> None:
    if connection.vendor == "sqlite":
        pytest.skip("it needs a server of databases")
    members, seconds = (2_000, 60) if IS_FULL else (300, 15)
    killed(tmp_path, monkeypatch, members=members, seconds=seconds)
