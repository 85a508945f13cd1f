"""Tasks of queues are listed, found and counted in the service, page by page."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import grpc
import pytest
from django.test import override_settings

from cloudtask import Cancellation, clock, conf, envelope, inspect
from cloudtask.emulator import Emulator
from cloudtask.inspect import CallState, QueuesUnknown, find
from cloudtask.queues import listing
from tests.receipts import tasks

pytestmark = pytest.mark.django_db(databases=["default", "other"])

PLACE = "projects/p/locations/l/queues"
CLOUD = {
    "PROJECT": "p",
    "LOCATION": "l",
    "TRANSPORT": {"BACKEND": conf.CLOUD_TRANSPORT},
    "TARGET": {
        "BACKEND": "cloudtask.targets.HttpTarget",
        "URL": "http://127.0.0.1:1",
        "SERVICE_ACCOUNT": "tasks@p.iam.gserviceaccount.com",
    },
    "QUEUES": {"default": {}, "wide": {"spread": 3}},
}
LATER = {"countdown": 3600, "transactional": False}


@pytest.fixture
def emulator(monkeypatch: pytest.MonkeyPatch) -> Iterator[Emulator]:
    names = ("default", "wide-0", "wide-1", "wide-2")
    queues = tuple(f"{PLACE}/{name}" for name in names)
    with Emulator(target="http://127.0.0.1:1", queues=queues) as running:
        monkeypatch.delenv("TASKS_EMULATOR_HOST", raising=False)
        monkeypatch.setenv("CLOUD_TASKS_EMULATOR_HOST", running.address)
        with override_settings(CLOUDTASK=CLOUD):
            yield running


def test_all_tasks_of_a_queue_are_listed_in_pages(
    emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listing, "PAGE", 2)
    receipts = [tasks.echo.using(**LATER).defer(n) for n in range(5)]

    found = [*inspect.tasks("default", limit=None)]

    assert {one.name for one in found} == {one.name for one in receipts}
    assert {(one.task, one.queue, one.tries) for one in found} == {
        (tasks.echo.path, "default", 0)
    }
    assert all(one.due_at and one.created_at and not one.body for one in found)
    assert len([*inspect.tasks("default", limit=3)]) == 3


def test_all_parts_of_a_spread_queue_are_one(emulator: Emulator) -> None:
    receipts = [
        tasks.echo.using(queue="wide", **LATER).defer(number) for number in range(9)
    ]

    found = [*inspect.tasks("wide")]

    assert {one.name for one in found} == {one.name for one in receipts}
    assert {one.queue for one in found} == {"wide"}
    assert len({one.part for one in found}) > 1
    assert inspect.stats("wide").tasks == 9


def test_a_call_is_found_in_whatever_queue_it_waits(emulator: Emulator) -> None:
    receipt = tasks.secretive.using(queue="wide", **LATER).defer(1, password="hunter2")

    brief, whole = find(receipt.id), find(receipt.id, full=True)

    assert (brief.state, brief.queue) == (CallState.QUEUED, "wide")
    assert (brief.task, brief.arguments) == (tasks.secretive.path, "")
    assert whole.arguments == "number=1, password='********'"
    task = listing.find_task("wide", receipt.name, full=True)
    assert task is not None
    assert envelope.unseal(task.body, now=clock.now()).id == receipt.id


def test_a_deleted_task_of_a_cancelled_call_is_cancelled(emulator: Emulator) -> None:
    receipt = tasks.stoppable.using(**LATER).defer()
    assert receipt.cancel() is Cancellation.PREVENTED

    assert find(receipt.id).state is CallState.CANCELLED
    assert [*inspect.tasks("default")] == []


def test_statistics_are_those_of_the_service(emulator: Emulator) -> None:
    tasks.echo.using(**LATER).defer(1)

    found = inspect.stats("default")

    assert (found.tasks, found.running) == (1, 0)
    assert found.oldest_at is not None
    assert {one.name for one in inspect.queues()} >= {"default", "wide-0"}


def test_a_queue_that_is_not_there_is_said_to_be_missing(emulator: Emulator) -> None:
    with pytest.raises(QueuesUnknown, match="no such queue"):
        [*inspect.tasks("elsewhere")]
    with pytest.raises(QueuesUnknown, match="no such queue"):
        inspect.stats("elsewhere")


class _Refusing(grpc.GenericRpcHandler):
    """Refuses all calls, as the service does for an account without a right."""

    def service(self, details: Any) -> Any:
        def refuse(request: Any, context: Any) -> Any:
            context.abort(grpc.StatusCode.PERMISSION_DENIED, "The caller may not")

        return grpc.unary_unary_rpc_method_handler(refuse)


@contextmanager
def refusing(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    server = grpc.server(ThreadPoolExecutor(2))
    server.add_generic_rpc_handlers((_Refusing(),))
    address = f"127.0.0.1:{server.add_insecure_port('127.0.0.1:0')}"
    server.start()
    monkeypatch.delenv("TASKS_EMULATOR_HOST", raising=False)
    monkeypatch.setenv("CLOUD_TASKS_EMULATOR_HOST", address)
    try:
        with override_settings(CLOUDTASK=CLOUD):
            yield
    finally:
        server.stop(None).wait()


@pytest.mark.parametrize(
    ("look", "right", "role"),
    [
        (lambda: [*inspect.tasks("default")], "tasks.list", "viewer"),
        (lambda: find("0" * 32), "tasks.get", "viewer"),
        (lambda: find("0" * 32, full=True), "tasks.fullView", "enqueuer"),
        (inspect.queues, "queues.list", "viewer"),
        (lambda: inspect.stats("default"), "queues.get", "viewer"),
    ],
)
def test_an_account_without_the_right_is_told_which_role_has_it(
    monkeypatch: pytest.MonkeyPatch, look: Any, right: str, role: str
) -> None:
    with refusing(monkeypatch), pytest.raises(QueuesUnknown) as caught:
        look()

    assert f"cloudtasks.{right}" in str(caught.value)
    assert f"roles/cloudtasks.{role}" in str(caught.value)
