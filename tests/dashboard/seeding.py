"""Makes what the pages show: runs, failed tasks, an outbox and results."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from cloudtask.models import OutboxMessage, TaskResultRow
from cloudtask.runs import FailureState, RowFailure, RunState
from cloudtask.stores import FailedCall, Store
from cloudtask.stores.groups import StoredGroup
from tests.stores.runs_making import LEASE, create, record, shards_of, take, walked

TASK = "tests.testapp.tasks.note"
HTML = "<script>alert(1)</script><b style='color:red'>\u202e & \"quoted\""
TRACE = 'Traceback (most recent call last):\n  File "shop/mail.py", line 7, in send\n'


def run_of(store: Store, number: int, state: RunState = RunState.RUNNING) -> str:
    """A run of four shards, of which one is half done."""
    run_id = f"{number:032x}"
    create(store, run_id, RunState.PLANNING)
    assert store.add_part(run_id, 0, shards_of(run_id, 4), total=40)
    shard = take(store, run_id=run_id)
    assert store.checkpoint(shard, walked("5", done=5, failed=1), lease=LEASE)
    if state is not RunState.RUNNING:
        assert store.change_run(run_id, to=state, only_from=[RunState.RUNNING])
    return run_id


def failed_row(store: Store, run_id: str, key: str, error: str = "no") -> None:
    record(
        store,
        RowFailure(
            run=run_id,
            shard=0,
            key=key,
            state=FailureState.FAILED,
            error=f"ValueError: {error}",
            traceback=f"{TRACE}ValueError: {error}",
        ),
        delay=timedelta(0),
    )


def failed_call(store: Store, key: str, **values: Any) -> FailedCall:
    given: dict[str, Any] = {
        "task": TASK,
        "queue": "mail",
        "name": key,
        "envelope": b"not an envelope",
        "arguments": "user_id=7, password='********'",
        "error": "ValueError: no such user",
        "traceback": f"{TRACE}ValueError: no such user",
        "attempts": 3,
        "enqueued_at": datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
        "kind": "ValueError",
        "group": "g" * 32,
        **values,
    }
    call = FailedCall(key=key, **given)
    store.save_failed(call)
    return call


def outbox_row(
    key: str, *, parked: bool = True, error: str = "refused", names: str = ""
) -> None:
    state = OutboxMessage.State.PARKED if parked else OutboxMessage.State.WAITING
    OutboxMessage.objects.create(
        key=key,
        task=names or TASK,
        queue=names[:100] or "mail",
        envelope=b"x",
        state=state,
        error=error,
    )


def result(key: str, names: str = "") -> None:
    TaskResultRow.objects.create(
        id=key,
        task=names or TASK,
        backend=names[:30] or "default",
        queue=names or "mail",
        status="SUCCESSFUL",
        call=b"",
        enqueued_at=datetime.now(UTC),
    )


def group_of(store: Store, key: str, *, values: int) -> None:
    """A group of three members, of which so many have a value."""
    store.create_group(StoredGroup(id=key, total=3, rest=b"sealed"))
    for member in range(values):
        store.save_member(key, member, b"sealed")


def everything(store: Store) -> None:
    """One of each, with HTML wherever a text may come from outside."""
    run_id = run_of(store, 1)
    failed_row(store, run_id, "17", HTML)
    failed_row(store, run_id, HTML)
    run_of(store, 2, RunState.PAUSED)
    run_of(store, 3, RunState.FAILED)
    failed_call(store, "f1")
    failed_call(store, "f2", error=HTML, arguments=HTML, traceback=HTML * 300)
    failed_call(store, "f3", task="shop.gone.task", group="h" * 32)
    failed_call(
        store, "f4", task=HTML, queue=HTML, name=HTML, kind=HTML, group=HTML[:32]
    )
    group_of(store, "g1", values=2)
    outbox_row("o1", error=HTML)
    outbox_row("o2", parked=False, error="")
    outbox_row("o3", names=HTML)
    result("r1")
    result("r2", HTML)
    store.note_upkeep("relay", HTML)
