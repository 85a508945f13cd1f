"""Queues that stand for several queues of the service."""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any

import pytest
from django.core.management import call_command
from django.test import RequestFactory

from cloudtask import Cancellation, call, conf, environment, queues
from cloudtask.conf.queues import former_part_of, queues_of, queues_of_service
from cloudtask.doctor.service import queue_states
from cloudtask.emulator import Emulator
from cloudtask.exceptions import ConfigurationError, QueueNotFound
from cloudtask.management.commands import cloudtask_emulator
from cloudtask.queues import applying, plan
from cloudtask.testing import assert_enqueued, queued, run_queued
from tests.emulator.sink import Sink
from tests.testapp import tasks

PARENT = "projects/p/locations/l"
PARTS = ["bulk-0", "bulk-1", "bulk-2", "bulk-3"]


@pytest.fixture
def sink() -> Iterator[Sink]:
    sink = Sink()
    with sink.running():
        yield sink


@pytest.fixture
def emulator(sink: Sink, monkeypatch: pytest.MonkeyPatch) -> Iterator[Emulator]:
    first = (f"{PARENT}/queues/default",)
    with Emulator(port=0, target=sink.url, queues=first) as emulator:
        monkeypatch.setenv("CLOUD_TASKS_EMULATOR_HOST", emulator.address)
        monkeypatch.setattr(applying, "PAUSE", 0.0)
        queues.forget_cached()
        yield emulator


@pytest.fixture
def spread(settings: Any, sink: Sink) -> Callable[[int], None]:
    """Declares `bulk` with a spread, and makes its queues."""

    def declare(number: int) -> None:
        settings.CLOUDTASK = {
            "PROJECT": "p",
            "LOCATION": "l",
            "TRANSPORT": {"BACKEND": conf.CLOUD_TRANSPORT},
            "TARGET": {
                "BACKEND": "cloudtask.targets.HttpTarget",
                "URL": sink.url,
                "SERVICE_ACCOUNT": "tasks@p.iam.gserviceaccount.com",
            },
            "QUEUES": {"default": {}, "bulk": {"spread": number, "rate": "400/s"}},
        }
        call_command("cloudtask_queues", "apply", "--yes", stdout=io.StringIO())

    return declare


def run(*arguments: str) -> str:
    out = io.StringIO()
    with suppress(SystemExit):
        call_command("cloudtask_queues", *arguments, stdout=out)
    return out.getvalue()


def defer_many(number: int) -> None:
    tasks.note.using(queue="bulk", small=True).defer_many(
        [call(n, n) for n in range(number)]
    )


def held(emulator: Emulator, names: list[str]) -> dict[str, int]:
    return {name: len(emulator.tasks(name)) for name in names}


# Pure


def test_each_part_has_the_options_of_the_declaration() -> None:
    declared = queues_of("QUEUES", {"bulk": {"spread": 2, "rate": "500/s"}, "mail": {}})

    found = queues_of_service(declared)

    assert list(found) == ["bulk-0", "bulk-1", "mail"]
    assert [one.rate for one in found.values()] == [500.0, 500.0, None]


@pytest.mark.parametrize(
    ("declared", "problem"),
    [
        ({"bulk": {"spread": 3}, "bulk-2": {}}, "'bulk-2' twice"),
        ({"bulk": {"spread": 0}}, "not a whole number from 1"),
        ({"bulk": {"spread": 101}}, "more than the 100"),
        ({"b" * 99: {"spread": 2}}, "more than 100 letters"),
    ],
)
def test_parts_that_cannot_be_queues_are_refused(
    declared: dict[str, Any], problem: str
) -> None:
    with pytest.raises(ConfigurationError, match=problem):
        queues_of("QUEUES", declared)


@pytest.mark.parametrize(
    ("name", "was"),
    [("bulk", "bulk"), ("bulk-9", "bulk"), ("bulk-1", None), ("bulk-x", None)],
)
def test_a_former_part_is_known_by_its_name(name: str, was: str | None) -> None:
    found = former_part_of(queues_of("QUEUES", {"bulk": {"spread": 2}}), name)

    assert (found and found.name) == was


def test_the_emulator_of_the_project_has_the_parts(settings: Any) -> None:
    settings.CLOUDTASK = {"QUEUES": {"bulk": {"spread": 2, "rate": "5/s"}}}

    assert cloudtask_emulator._queues() == {
        "bulk-0": {"rate": "5/s", "max_attempts": -1},
        "bulk-1": {"rate": "5/s", "max_attempts": -1},
    }


# In tests, and in the handler


def test_tests_speak_of_the_whole(settings: Any) -> None:
    settings.CLOUDTASK = {"QUEUES": {"bulk": {"spread": 4}}}
    tasks.note.using(queue="bulk").defer(1, 2)

    assert_enqueued(tasks.note.using(queue="bulk"), 1, 2)
    assert [one.queue for one in queued()] == ["bulk"]
    assert len(run_queued(queue="bulk")) == 1


def test_a_part_is_no_queue_of_a_task(settings: Any) -> None:
    settings.CLOUDTASK = {"QUEUES": {"bulk": {"spread": 4}}}

    with pytest.raises(QueueNotFound, match="bulk-1"):
        tasks.note.using(queue="bulk-1").defer(1, 2)


@pytest.mark.parametrize(
    ("header", "name"), [("bulk-2", "bulk"), ("bulk-4", "bulk-4"), ("mail", "mail")]
)
def test_the_header_of_a_part_is_read_as_the_whole(
    settings: Any, header: str, name: str
) -> None:
    settings.CLOUDTASK = {"QUEUES": {"bulk": {"spread": 4}, "mail": {}}}
    request = RequestFactory().post("/", headers={"X-CloudTasks-QueueName": header})

    with environment.of_request(request, is_task=True):
        assert environment.task_queue_name() == name


# Against the emulator


def test_calls_are_spread_and_the_whole_is_paused_and_resumed(
    emulator: Emulator, spread: Callable[[int], None], sink: Sink
) -> None:
    spread(4)
    assert "bulk: paused" in run("pause", "bulk")

    defer_many(200)

    there = held(emulator, PARTS)
    assert sum(there.values()) == 200
    assert min(there.values()) > 20
    run("resume", "bulk")
    sink.wait_for(200)
    sent = Counter(one.facts("CloudTasks")["queuename"] for one in sink.requests)
    assert sent == there


def test_a_name_is_taken_in_all_parts(
    emulator: Emulator, spread: Callable[[int], None]
) -> None:
    spread(4)
    run("pause", "bulk")
    once = tasks.note.using(queue="bulk", small=True, unique=True)

    for _ in range(5):
        once.defer(1, 2)

    assert sum(held(emulator, PARTS).values()) == 1


@pytest.mark.parametrize(
    ("before", "after", "left"),
    [
        (4, 2, ["bulk-2", "bulk-3"]),
        (4, 1, PARTS),
        (1, 4, ["bulk"]),
    ],
)
def test_a_change_of_the_spread_loses_nothing(
    emulator: Emulator,
    spread: Callable[[int], None],
    sink: Sink,
    before: int,
    after: int,
    left: list[str],
) -> None:
    spread(before)
    run("pause", "bulk")
    defer_many(100)
    waiting = sum(held(emulator, left).values())
    assert waiting > 0

    spread(after)

    rows = [json.loads(line) for line in run("plan", "--json").splitlines()]
    alone = [row["queue"] for row in rows if "no part of 'bulk' now" in row["note"]]
    assert alone == left
    assert {row["action"] for row in rows if row["queue"] in left} == {plan.UNMANAGED}
    assert sum(held(emulator, left).values()) == waiting
    for name in {"bulk", *left}:
        run("resume", name)
    sink.wait_for(100)


def test_a_task_is_found_in_a_former_part(
    emulator: Emulator, spread: Callable[[int], None]
) -> None:
    spread(1)
    run("pause", "bulk")
    receipt = tasks.note.using(queue="bulk", small=True).defer(1, 2)
    spread(4)

    assert queues.take_back("bulk", receipt.name) is not None
    assert queues.look_at("bulk", receipt.name) is None


def test_the_doctor_looks_at_each_part(
    emulator: Emulator,
    spread: Callable[[int], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("cloudtask.doctor.service.used", lambda: ["bulk"])
    spread(2)
    queues.pause("bulk-1")

    found = [one.what for one in queue_states(None)]  # type: ignore[arg-type]

    assert "The queue 'bulk-1' is paused: it takes tasks and sends none." in found
    assert "1 queues are as they must be." in found


def test_a_missing_part_is_named(
    emulator: Emulator, spread: Callable[[int], None], settings: Any
) -> None:
    spread(1)
    declared = {"default": {}, "bulk": {"spread": 2}}
    settings.CLOUDTASK = {**settings.CLOUDTASK, "QUEUES": declared}

    with pytest.raises(QueueNotFound, match=r"tasks queues create bulk-[01] "):
        tasks.note.using(queue="bulk", small=True).defer(1, 2)


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("name", [None, "chosen"])
def test_a_cancel_deletes_the_task_from_the_part_that_has_it(
    emulator: Emulator, spread: Callable[[int], None], name: str | None
) -> None:
    spread(4)
    for part in PARTS:
        queues.pause(part)
    options = {"queue": "bulk", "small": True, "countdown": 60, "cancellable": True}
    receipts = [
        tasks.note.using(**options, name=name and f"{name}-{n}").defer(n)
        for n in range(8)
    ]

    for receipt in receipts:
        assert queues.look_at("bulk", receipt.name) is not None
        assert receipt.cancel() is Cancellation.PREVENTED
        assert queues.look_at("bulk", receipt.name) is None
