"""Datastore fails at every call of a run, on both emulators: the run ends all the same.

A proxy in front of the emulator refuses a call, or loses its answer.
"""

from __future__ import annotations

import pytest
from grpc import StatusCode

from cloudtask.iteration import RunState
from tests.iteration import tasks
from tests.iteration.models import Thing
from tests.iteration.tasks import trace
from tests.stores.datastore_fixtures import empty_store
from tests.support.proxy import DatastoreProxy

ROWS = 12
# More calls than a run makes: those behind its end meet no fault.
CALLS = {"Commit": 24, "Lookup": 30, "RunQuery": 12}
FAULTS = {
    "refused": (StatusCode.ABORTED, False),
    "unavailable": (StatusCode.UNAVAILABLE, False),
    "answer lost": (StatusCode.UNAVAILABLE, True),
}
CASES = [
    pytest.param(method, skip, fault, id=f"{method} {skip + 1} {fault}")
    for method, calls in CALLS.items()
    for skip in range(calls)
    for fault in FAULTS
]


@pytest.fixture(params=["datastore", "firestore"])
def proxy(request, datastore_at, db, settings) -> DatastoreProxy:
    settings.CLOUDTASK = {"STORE": empty_store()}
    return datastore_at(request.param)


@pytest.mark.exhaustive(sample=8)
@pytest.mark.parametrize(("method", "skip", "fault"), CASES)
def test_a_run_ends_whatever_call_of_datastore_fails(
    proxy, world, things, method, skip, fault
):
    code, apply = FAULTS[fault]
    keys = things(ROWS)
    trace.pace = 1.5  # seconds a row, so that there are checkpoints and several legs
    run = tasks.visit.iterate(
        Thing.objects.all(),
        finalize=tasks.finalize,
        shards=2,
        keep=True,
        transactional=False,
    )
    proxy.fail_next(method, code, apply=apply, skip=skip)

    world.run()

    assert run.refresh().state is RunState.FINISHED
    assert sorted(trace.rows) == keys
    assert run.report().done == ROWS
    assert trace.calls.count("finalize") == 1
