"""The line that each dispatch gets, and what counts as a failure."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cloudtask.emulator import DispatchRecord
from tests.emulator.asking import ask
from tests.emulator.conftest import QUEUE

RECORD = DispatchRecord(
    task=f"{QUEUE}/tasks/t",
    attempt=3,
    method="POST",
    url="http://h/",
    headers={},
    status=200,
    verdict="done",
    started=0.0,
    duration=0.0123,
)
START = "default/t attempt 3 POST http://h/ -> "


@pytest.mark.parametrize(
    ("changes", "line", "is_failure"),
    [
        ({}, "200 in 12 ms", False),
        ({"outcome": "succeeded"}, "200 in 12 ms", False),
        (
            {"status": 500, "verdict": "retry", "next_in": 1.25},
            "500 in 12 ms, retry in 1.2 s",
            True,
        ),
        (
            {"status": 500, "verdict": "retry", "next_in": 0.1, "outcome": "failed"},
            "500 in 12 ms, failed, retry in 0.1 s",
            True,
        ),
        ({"outcome": "exhausted"}, "200 in 12 ms, failed for the last time", True),
        (
            {"outcome": "retried"},
            "200 in 12 ms, failed, the application itself tries it again",
            False,
        ),
        (
            {"status": 500, "verdict": "retry", "next_in": 2, "outcome": "postponed"},
            "500 in 12 ms, postponed by the handler, retry in 2.0 s",
            False,
        ),
        ({"outcome": "cancelled"}, "200 in 12 ms, cancelled", False),
        (
            {"outcome": "skipped"},
            "200 in 12 ms, skipped: an earlier call of its schedule was running",
            False,
        ),
        ({"outcome": "sold out"}, "200 in 12 ms, sold out", False),
        (
            {"status": None, "verdict": "given up", "problem": "refused"},
            "no response in 12 ms, given up (refused)",
            True,
        ),
    ],
)
def test_a_line_says_what_an_attempt_was(changes, line, is_failure) -> None:
    record = replace(RECORD, **changes)

    assert str(record) == START + line
    assert record.is_failure is is_failure


def test_a_handler_names_the_outcome_in_a_header(emulator, client, sink) -> None:
    sink.answer_headers = {"X-CloudTask-Outcome": "exhausted"}
    client.create_task(parent=QUEUE, task={"http_request": {"url": sink.url}})
    emulator.wait_idle()

    (record,) = emulator.dispatches()

    assert (record.status, record.verdict, record.outcome) == (200, "done", "exhausted")
    assert "failed for the last time" in ask(emulator, "GET", "/").text


@pytest.mark.parametrize("value", ["\x1b[31mred", "\xe4", "x" * 10_000])
def test_a_header_can_not_harm_the_log(emulator, client, sink, value) -> None:
    sink.answer_headers = {"X-CloudTask-Outcome": value}
    client.create_task(parent=QUEUE, task={"http_request": {"url": sink.url}})
    emulator.wait_idle()

    (record,) = emulator.dispatches()

    assert record.outcome in ("", "x" * 40)
