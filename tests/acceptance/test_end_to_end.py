"""From `.defer()` in a web request to rows in the database, on every deployment."""

from __future__ import annotations

import itertools
import json
import secrets
import time

import pytest

from cloudtask.emulator.tokens import SigningKey
from tests.acceptance.site import ACCOUNT
from tests.support.waiting import wait_until

pytestmark = pytest.mark.acceptance

BATCHLESS = "The server has no BatchCreateTasks"
WRITE = "/_cloudtask/run/tests.acceptance.project.ledger.tasks.write"


@pytest.fixture
def text():
    """A text of this test's own, since all tests share a site."""
    return secrets.token_hex(8)


def statuses(deliveries):
    return [delivery["status"] for delivery in deliveries]


def headers(deliveries, site, name):
    """This dispatch header of every delivery; None if it is missing."""
    return [delivery["headers"].get(site.prefix + name) for delivery in deliveries]


def test_a_deferred_task_runs(site, text):
    receipt = site.defer("write", text)
    (entry,) = site.wait_for_entries(text)
    (delivery,) = site.wait_for_deliveries(receipt["name"], 1)
    assert (entry["attempt"], entry["task_name"]) == (1, receipt["name"])
    assert delivery["status"] == 200
    assert delivery["path"].endswith(".ledger.tasks.write")
    (queue,) = headers([delivery], site, "Queuename")
    assert queue.rpartition("/")[2] == "default"
    assert headers([delivery], site, "Taskretrycount") == ["0"]


def test_an_asynchronous_task_runs(site, text):
    site.defer("write_async", text)
    assert len(site.wait_for_entries(text)) == 1


def test_a_failing_task_is_retried_until_it_succeeds(site, text):
    receipt = site.defer("fail_until", text, 4)
    (entry,) = site.wait_for_entries(text)
    deliveries = site.wait_for_deliveries(receipt["name"], 4)
    assert entry["attempt"] == 4
    assert statuses(deliveries) == [500, 500, 500, 200]
    assert headers(deliveries, site, "Taskretrycount") == ["0", "1", "2", "3"]


def test_each_retry_says_what_came_before_and_waits_longer(site, text):
    if not site.cloud.has_backoff:
        pytest.skip(
            "gcloud-tasks-emulator has no backoff and does not say why it retries"
        )
    receipt = site.defer("fail_until", text, 4)
    deliveries = site.wait_for_deliveries(receipt["name"], 4)
    before = headers(deliveries, site, "Taskpreviousresponse")
    assert before == [None, "500", "500", "500"]
    etas = [float(eta) for eta in headers(deliveries, site, "Tasketa")]
    waits = [
        eta - earlier["received_at"]
        for earlier, eta in zip(deliveries, etas[1:], strict=False)
    ]
    # Backoff(min=0.2): the wait doubles. The least that it may be, to the millisecond.
    assert all(
        wait > least - 0.001 for wait, least in zip(waits, (0.2, 0.4, 0.8), strict=True)
    )


def test_a_countdown_holds_the_task_back(site, text):
    asked = time.time()
    receipt = site.defer("write", text, countdown=1.5)
    (entry,) = site.wait_for_entries(text)
    (delivery,) = site.wait_for_deliveries(receipt["name"], 1)
    assert entry["written_at"] >= asked + 1.5
    (eta,) = headers([delivery], site, "Tasketa")
    assert float(eta) >= asked + 1.5


def test_many_calls_are_enqueued_together_and_each_runs(site, text):
    calls = [[f"{text} {number}"] for number in range(250)]
    made = site.post("/defer-many/", task="write", calls=calls)
    entries = site.wait_for_entries(text, 250)
    assert len({receipt["name"] for receipt in made["receipts"]}) == 250
    assert {entry["text"] for entry in entries} == {one for (one,) in calls}
    assert (BATCHLESS in site.log.read_text()) is not site.cloud.has_batches


def test_a_committed_transaction_enqueues_through_the_outbox(site, text):
    made = site.post(
        "/defer-in-transaction/", task="write", args=[text], roll_back=False
    )
    assert made["in_outbox"] == 1
    (entry,) = site.wait_for_entries(text)
    assert entry["task_name"] == made["name"]
    wait_until(lambda: not site.leftovers()["outbox"], "The outbox is empty", site.tail)


def test_a_rolled_back_transaction_enqueues_nothing(site, text):
    made = site.post(
        "/defer-in-transaction/", task="write", args=[f"{text} a"], roll_back=True
    )
    assert made["in_outbox"] == 1
    # A second call: when it has run, the first would have run too.
    site.defer("write", f"{text} b", countdown=0.5)
    entries = site.wait_for_entries(text)
    assert [entry["text"] for entry in entries] == [f"{text} b"]
    assert site.deliveries(made["name"]) == []
    assert site.leftovers()["outbox"] == []


def test_a_payload_that_is_too_large_to_travel_rests_in_the_store(site, text):
    site.post("/defer-large/", text=text, size=3_000_000)
    (entry,) = site.wait_for_entries(text)
    assert entry["text"] == f"{text}: 3000000"
    wait_until(lambda: site.leftovers()["payloads"] == 0, "Its payload is gone")


def test_a_task_that_asks_for_it_runs_again(site, text):
    receipt = site.defer("ask_again", text)
    (entry,) = site.wait_for_entries(text)
    deliveries = site.wait_for_deliveries(receipt["id"], 2)
    assert entry["attempt"] == 2
    assert statuses(deliveries) == [200, 200]
    assert entry["task_name"] == f"{receipt['id']}-1"


@pytest.mark.parametrize(
    ("task", "answers"), [("fail_always", [500, 500, 200]), ("fail_for_good", [200])]
)
def test_a_task_that_can_not_succeed_is_kept_as_failed(site, text, task, answers):
    receipt = site.defer(task, text)

    def kept():
        failed = site.leftovers()["failed"]
        return [one for one in failed if one["name"] == receipt["name"]]

    (failed,) = wait_until(kept, "The failed task is kept", site.tail)
    assert text in failed["error"]
    assert failed["attempts"] == len(answers)
    deliveries = site.wait_for_deliveries(receipt["name"], len(answers))
    assert statuses(deliveries) == answers


def test_a_name_is_taken_once(site, text):
    if not site.cloud.refuses_taken_names:
        pytest.skip("gcloud-tasks-emulator takes the same name twice")
    asked = {"task": "write", "args": [text], "options": {"name": f"named-{text}"}}
    site.post("/defer/", **asked)
    site.wait_for_entries(text)
    assert site.status_of_post("/defer/", json.dumps(asked).encode()) == 409
    assert len(site.entries(text)) == 1


def test_what_was_deferred_before_the_fork_runs_and_workers_defer_too(site, text):
    site.wait_for_entries("before the fork")
    for number in range(8):  # enough to meet both workers
        site.defer("write", f"{text} {number}")
    assert len(site.wait_for_entries(text, 8)) == 8


def test_a_stranger_runs_nothing(site):
    bearer = {"Authorization": f"Bearer {_token_of_a_stranger()}"}
    before = site.wait_for_entries("")
    answers = {
        site.status_of_post(WRITE, body, **headers)
        for body, headers in itertools.product(
            (b"", b"{}", b"ct" + bytes(200)), ({}, bearer)
        )
    }
    if site.verifies_tokens:
        assert answers == {403}
    else:
        assert answers <= {400, 403}
    assert site.entries("") == before


def _token_of_a_stranger():
    now = int(time.time())
    claims = {"iss": "https://accounts.google.com", "aud": "x", "email": ACCOUNT}
    return SigningKey().jwt({**claims, "iat": now, "exp": now + 600})
