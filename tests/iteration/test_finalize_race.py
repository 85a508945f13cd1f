"""The write skew of finalize, in two threads on PostgreSQL, and its remedy."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from django.db import connection, connections, transaction
from django.db.models import Exists

from cloudtask.models.iteration import IterationRun, IterationShard
from cloudtask.runs import Run, RunState, Shard, ShardState, Walked
from cloudtask.stores import store
from tests.durability.database import committing

ROUNDS = 200
LEASE = timedelta(minutes=5)
RUN = "r" * 32


@pytest.fixture
def committed(tmp_path):
    if connection.vendor != "postgresql":
        pytest.skip("the skew needs PostgreSQL's READ COMMITTED")
    with committing(tmp_path):
        yield


def two_last_shards():
    kept = store()
    kept.delete_run(RUN)
    kept.create_run(Run(id=RUN, task="t", queue="q", state=RunState.PLANNING))
    kept.add_part(RUN, 0, [Shard(run=RUN, index=n) for n in (0, 1)], total=2)
    return [kept.acquire(RUN, n, 0, lease=LEASE) for n in (0, 1)]


def race(finish, shards, pool):
    """Tell for two threads that finish the last shards which of them is to finalize."""
    barrier = threading.Barrier(2)
    return list(pool.map(lambda shard: finish(shard, barrier), shards))


def in_one_transaction(shard, barrier):
    """The tempting form: mark the shard done and ask, together."""
    with transaction.atomic():
        IterationShard.objects.filter(run_id=RUN, index=shard.index).update(
            state=ShardState.DONE
        )
        barrier.wait()
        undone = IterationShard.objects.filter(run_id=RUN).exclude(
            state=ShardState.DONE
        )
        ready = IterationRun.objects.filter(~Exists(undone), pk=RUN)
        won = ready.filter(state=RunState.RUNNING).update(state=RunState.FINALIZING)
        barrier.wait()
    return bool(won)


def in_two_transactions(shard, barrier):
    kept = store()
    barrier.wait()
    assert kept.complete(shard, Walked(cursor=None, done=1, failed=0, skipped=0))
    return kept.try_finalize(RUN)


def close_connections(pool):
    """Those of both threads: each takes one of two jobs that wait for one another."""
    barrier = threading.Barrier(2)

    def close(_):
        barrier.wait()
        connections.close_all()

    list(pool.map(close, range(2)))


@pytest.mark.django_db(databases=["default", "other"])
def test_one_transaction_lets_nobody_win_two_let_exactly_one(committed):
    with ThreadPoolExecutor(2) as pool:
        naive = [
            sum(race(in_one_transaction, two_last_shards(), pool))
            for _ in range(ROUNDS)
        ]
        ours = [
            sum(race(in_two_transactions, two_last_shards(), pool))
            for _ in range(ROUNDS)
        ]
        close_connections(pool)

    assert set(naive) == {0}
    assert set(ours) == {1}
    print(f"\n{ROUNDS} rounds: in one transaction 0 finalize, in two exactly 1")
