"""Actions: rights, questions, late clicks, double submits, and what is recorded."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.messages import get_messages
from django.test import Client

from cloudtask import signals, task
from cloudtask.dashboard import iteration_pages
from cloudtask.delivering import bulk
from cloudtask.models import OutboxMessage
from cloudtask.runs import RunState
from cloudtask.stores import Store
from cloudtask.testing import queued, run_queued
from tests.dashboard import seeding
from tests.dashboard.test_pages import PLACES, address
from tests.stores.runs_making import create

pytestmark = pytest.mark.django_db(databases="__all__")


@task(max_attempts=1)
def break_down(word: str, password: str = "") -> None:
    raise ValueError(word)


def said(response: Any) -> str:
    return " ".join(str(message) for message in get_messages(response.wsgi_request))


def post(client: Client, url: str, verb: str, **fields: Any) -> Any:
    return client.post(url, {"verb": verb, **fields})


def failure(store: Store, word: str = "no") -> str:
    """The key of a task that has failed for good, and can be retried."""
    receipt = break_down.defer(word, password="hunter2")
    run_queued(errors="retry")
    assert store.load_failed(receipt.id) is not None
    return receipt.id


# Rights

ACTIONS = {
    "control_iteration": ("iteration", f"{1:032x}", "pause"),
    "retry_failed": ("failed", "f1", "retry"),
    "discard_failed": ("failed", "f1", "discard"),
    "release_outbox": ("outbox", "", "row=o1:default"),
    "cancel_call": ("call", "", "cancel"),
    "control_queue": ("queue", "", "pause:mail"),
    "purge_queue": ("queue", "", "purge:mail"),
}


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("right", ACTIONS)
def test_an_action_needs_its_right_and_its_button_is_left_out(
    store: Store, visitor: Callable[..., Client], right: str, place: str
) -> None:
    seeding.everything(store)
    model, key, verb = ACTIONS[right]
    client = visitor(f"view_{model}")
    url = address(model, key, place)

    assert f'value="{verb}"' not in client.get(url).content.decode()
    assert post(client, url, verb).status_code == 403


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize(
    "model",
    [
        *("iteration", "failed", "outbox", "queue", "task", "result"),
        *("schedule", "group", "call", "doctor"),
    ],
)
def test_a_page_needs_its_right(
    db: None, visitor: Callable[..., Client], model: str, place: str
) -> None:
    other = "view_task" if model != "task" else "view_queue"
    client = visitor(other)

    assert client.get(address(model, place=place)).status_code == 403
    overview = client.get(address("overview", place=place)).content.decode()
    assert address(model, place=place) not in overview


@pytest.mark.parametrize("place", PLACES)
def test_strangers_are_asked_to_log_in(db: None, place: str) -> None:
    for model in ("overview", "failed"):
        response = Client().get(address(model, place=place))
        assert response.status_code == 302
        assert "login" in response["Location"]


def test_the_admin_needs_staff_and_the_pages_alone_do_not(
    visitor: Callable[..., Client], db: None
) -> None:
    client = visitor(is_staff=False)

    assert client.get(address("failed")).status_code == 302
    assert client.get(address("failed", place="alone")).status_code == 200


def test_arguments_and_tracebacks_need_a_right(
    store: Store, visitor: Callable[..., Client]
) -> None:
    seeding.everything(store)
    client = visitor("view_failed", "view_iteration")
    for url in (address("failed", "f1"), address("iteration", f"{1:032x}")):
        text = client.get(url).content.decode()
        assert "user_id=7" not in text
        assert "line 7, in send" not in text


def test_a_read_only_dashboard_refuses_every_action(
    store: Store, visitor: Callable[..., Client], configure: Callable[..., None]
) -> None:
    configure(DASHBOARD_READ_ONLY=True)
    seeding.everything(store)
    client = visitor()
    for model, key, verb in ACTIONS.values():
        text = client.get(address(model, key)).content.decode()
        assert f'value="{verb}"' not in text
        assert "read-only" in text
        assert post(client, address(model, key), verb).status_code == 403


def test_a_post_without_the_token_of_csrf_is_refused(
    store: Store, visitor: Callable[..., Client]
) -> None:
    seeding.failed_call(store, "f1")
    client = visitor()
    client.handler.enforce_csrf_checks = True

    for place in PLACES:
        url = address("failed", "f1", place)
        assert post(client, url, "discard", confirmed="1").status_code == 403
    assert store.load_failed("f1") is not None


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("model", ["failed", "outbox", "queue", "schedule", "doctor"])
def test_a_project_without_such_middleware_is_protected_too(
    store: Store, visitor: Callable[..., Client], settings: Any, place: str, model: str
) -> None:
    """Of a service with an API alone, for example."""
    unwanted = ("CsrfViewMiddleware", "XFrameOptionsMiddleware")
    settings.MIDDLEWARE = [
        one for one in settings.MIDDLEWARE if not one.endswith(unwanted)
    ]
    client = visitor()
    client.handler.enforce_csrf_checks = True
    url = address(model, place=place)
    assert client.post(url, {"verb": "retry-all", "confirmed": "1"}).status_code == 403

    shown = client.get(url)

    assert shown.headers["X-Frame-Options"] == "DENY"
    token = re.search(
        r'name="csrfmiddlewaretoken" value="(\w+)"', shown.content.decode()
    )
    assert token is not None
    given = {"csrfmiddlewaretoken": token[1], "verb": "nonsense"}
    assert client.post(url, given).status_code in (200, 302)


def test_a_setting_of_the_project_says_who_may_frame_a_page(
    visitor: Callable[..., Client], settings: Any
) -> None:
    settings.X_FRAME_OPTIONS = "SAMEORIGIN"
    shown = visitor().get(address("failed", place="alone"))
    assert shown.headers["X-Frame-Options"] == "SAMEORIGIN"


@pytest.mark.parametrize(
    "name", ["a/b", "../b", "a/tasks/b", "a b", "\u00e9", "x" * 101]
)
@pytest.mark.parametrize("verb", ["pause", "purge"])
def test_what_is_no_name_of_a_queue_reaches_no_service(
    visitor: Callable[..., Client], verb: str, name: str
) -> None:
    fields = {"confirmed": "1", "typed": name}
    answer = post(visitor(), address("queue"), f"{verb}:{name}", **fields)
    assert said(answer) == "There is no such action."


# Iterations


@pytest.mark.parametrize("place", PLACES)
def test_a_run_is_paused_and_cancelled(
    store: Store, visitor: Callable[..., Client], place: str
) -> None:
    run_id = seeding.run_of(store, 1)
    client, url = visitor(), address("iteration", f"{1:032x}", place)

    paused = post(client, url, "pause")
    question = post(client, url, "cancel")
    assert store.load_run(run_id).state is RunState.PAUSED
    cancelled = post(client, url, "cancel", confirmed="1")

    assert paused["Location"] == url
    assert "Paused" in said(paused)
    assert "stops for good" in question.content.decode()
    assert "Cancelled" in said(cancelled)
    assert store.load_run(run_id).state is RunState.CANCELLED


@pytest.mark.parametrize("state", list(RunState))
def test_failed_rows_are_discarded_in_any_state_after_a_question(
    store: Store, visitor: Callable[..., Client], state: RunState
) -> None:
    run_id = f"{1:032x}"
    create(store, run_id, state)
    seeding.failed_row(store, run_id, "7")
    client, url = visitor(), address("iteration", run_id)
    client.get(address("iteration") + "?rows=failed")

    page = client.get(url).content.decode()
    question = post(client, url, "discard").content.decode()
    assert store.count_failures(run_id) == 1
    discarded = post(client, url, "discard", confirmed="1")
    again = post(client, url, "discard", confirmed="1")

    assert 'value="discard"' in page
    assert "deleted with their errors" in question
    assert said(discarded) == "1 failed rows are discarded."
    assert store.count_failures(run_id) == 0
    assert "There are no failed rows any more" in said(again)
    assert 'value="discard"' not in client.get(url).content.decode()
    [entry] = LogEntry.objects.all()
    assert "1 failed rows are discarded." in entry.change_message


def test_many_failed_rows_are_discarded_by_a_task(
    store: Store, visitor: Callable[..., Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(iteration_pages, "AT_ONCE", 1)
    run_id = seeding.run_of(store, 1)
    for key in ("7", "8"):
        seeding.failed_row(store, run_id, key)

    answer = post(visitor(), address("iteration", run_id), "discard", confirmed="1")
    assert "2 failed rows are discarded by a task" in said(answer)
    assert store.count_failures(run_id) == 2
    run_queued()

    assert store.count_failures(run_id) == 0


def test_the_overview_leads_to_the_iterations_with_failed_rows(
    store: Store, visitor: Callable[..., Client]
) -> None:
    without, run_id = seeding.run_of(store, 1), seeding.run_of(store, 2)
    seeding.failed_row(store, run_id, "7")
    client, url = visitor(), address("iteration") + "?rows=failed"

    overview = client.get(address("overview")).content.decode()
    text = client.get(url).content.decode()
    store.discard_failures(run_id)

    assert url in overview
    assert address("iteration", run_id) in text
    assert address("iteration", without) not in text
    assert "No iterations match" in client.get(url).content.decode()


def test_a_late_click_is_told_and_changes_nothing(
    store: Store, visitor: Callable[..., Client]
) -> None:
    run_id = seeding.run_of(store, 1, RunState.FAILED)
    client, url = visitor(), address("iteration", f"{1:032x}")

    late = post(client, url, "pause")
    unknown = post(client, url, "explode")
    gone = post(client, address("iteration", "gone"), "pause")

    assert "can't be paused any more" in said(late)
    assert "no such action" in said(unknown)
    assert "There is no iteration gone" in said(gone)
    assert store.load_run(run_id).state is RunState.FAILED
    assert not LogEntry.objects.exists()


def test_only_buttons_that_fit_the_state_are_shown(
    store: Store, visitor: Callable[..., Client]
) -> None:
    client = visitor()
    expected = {
        RunState.RUNNING: {"pause", "cancel"},
        RunState.PAUSED: {"resume", "cancel"},
        RunState.FAILED: {"resume", "cancel"},
        RunState.CANCELLED: set(),
        RunState.ABORTED: set(),
    }
    for number, (state, verbs) in enumerate(expected.items()):
        run_id = seeding.run_of(store, number, state)
        text = client.get(address("iteration", run_id)).content.decode()
        shown = {v for v in ("pause", "resume", "cancel") if f'value="{v}"' in text}
        if state in (RunState.CANCELLED, RunState.ABORTED):
            shown -= {"cancel"}  # until its on_failure has run, it may be asked again
        assert shown == verbs, state


# Failed tasks


@pytest.mark.parametrize("place", PLACES)
def test_a_failed_task_is_retried_once_by_a_double_submit(
    store: Store, visitor: Callable[..., Client], place: str
) -> None:
    key = failure(store)
    client, url = visitor(), address("failed", key, place)

    first, second = post(client, url, "retry"), post(client, url, "retry")

    assert len(queued(break_down)) == 1
    assert "1 enqueued again" in said(first)
    assert "retried or discarded before" in said(second)
    assert store.load_failed(key) is None


def test_chosen_ones_are_retried_and_filters_are_kept(
    store: Store, visitor: Callable[..., Client]
) -> None:
    keys = [failure(store, word) for word in "ab"]
    seeding.failed_call(store, "broken")
    url = address("failed") + "?queue=default&age=24h"

    done = post(visitor(), url, "retry", key=[*keys, "broken", "gone"])

    assert done["Location"] == url
    assert "2 enqueued again. 2 not" in said(done)
    assert len(queued(break_down)) == 2
    assert store.load_failed("broken") is not None


def test_nothing_is_discarded_before_a_question_is_answered(
    store: Store, visitor: Callable[..., Client]
) -> None:
    for key in ("f1", "f2", "f3"):
        seeding.failed_call(store, key)
    client, url = visitor(), address("failed")

    question = post(client, url, "discard", key=["f1", "f2"])
    assert store.count_failed() == 3
    done = post(client, url, "discard", key=["f1", "f2"], confirmed="1")

    text = question.content.decode()
    assert "Discard 2 failed tasks?" in text
    assert 'name="key" value="f1"' in text
    assert "2 discarded" in said(done)
    assert store.count_failed() == 1


def fields_of(question: Any) -> dict[str, list[str]]:
    """What the form of a question sends when it is answered."""
    found: dict[str, list[str]] = {}
    context = question.context
    for name, value in [*context["fields"], *context.get("extra", [])]:
        found.setdefault(name, []).append(value)
    return {**found, "confirmed": ["1"]}


def test_all_that_match_are_retried_and_no_later_failure(
    store: Store, visitor: Callable[..., Client]
) -> None:
    for word in "ab":
        failure(store, word)
    seeding.failed_call(store, "other", kind="KeyError", queue="slow")
    client, url = visitor(), address("failed") + "?kind=ValueError"

    question = post(client, url, "retry-all")
    assert "Retry 2 failed tasks?" in question.content.decode()
    from tests.support import clock

    with clock.ahead(60.0):
        failure(store, "late")
    done = client.post(url, fields_of(question))

    assert "2 enqueued again" in said(done)
    assert store.count_failed() == 2
    assert store.load_failed("other") is not None


def test_every_failed_task_needs_to_be_meant(
    store: Store, visitor: Callable[..., Client]
) -> None:
    seeding.failed_call(store, "f1")
    client, url = visitor(), address("failed")

    refused = post(client, url, "discard-all", confirmed="1")
    assert store.count_failed() == 1
    question = post(client, url, "discard-all")
    client.post(url, fields_of(question))

    assert "every failed task" in said(refused)
    assert store.count_failed() == 0


def test_many_are_left_to_a_task(
    store: Store, visitor: Callable[..., Client], monkeypatch: pytest.MonkeyPatch
) -> None:
    from cloudtask.dashboard import failed_pages

    monkeypatch.setattr(failed_pages, "AT_ONCE", 2)
    for number in range(5):
        seeding.failed_call(store, f"f{number}")
    client, url = visitor(), address("failed")

    done = client.post(url, fields_of(post(client, url, "discard-all")))

    assert "a task is enqueued" in said(done)
    assert store.count_failed() == 5
    assert [one.task for one in queued()] == [bulk.DISCARD]
    run_queued()
    assert store.count_failed() == 0


def test_a_task_that_cannot_be_read_is_a_sentence(
    store: Store, visitor: Callable[..., Client]
) -> None:
    seeding.failed_call(store, "f1")

    refused = post(visitor(), address("failed", "f1"), "retry")

    assert "Nothing was enqueued again." in said(refused)
    assert store.load_failed("f1") is not None


def test_nothing_chosen_is_a_sentence(
    store: Store, visitor: Callable[..., Client]
) -> None:
    assert "Choose" in said(post(visitor(), address("failed"), "retry"))


# Outbox and queues


def test_parked_rows_are_released_one_by_error_and_all(
    visitor: Callable[..., Client],
) -> None:
    for key, error in {
        "o1": "a",
        "o2": "b 100%_x",
        "o3": "b 100%_x",
        "o4": "c",
    }.items():
        seeding.outbox_row(key, error=error)
    client, url = visitor(), address("outbox")
    parked = OutboxMessage.objects.filter(state="parked")

    one = post(client, url, "row=o1:default")
    alike = post(client, url, "error=1:default", **{"error-1": "b 100%_x"})
    assert [row.key for row in parked] == ["o4"]
    rest = post(client, url, "all:default")
    late = post(client, url, "all:default")
    wrong = post(client, url, "all:nowhere")

    assert "1 released" in said(one)
    assert "2 released" in said(alike)
    assert "1 released" in said(rest)
    assert "Nothing is parked" in said(late)
    assert "no such outbox" in said(wrong)
    assert not parked.all().exists()


def test_a_service_that_is_not_there_is_a_sentence(
    visitor: Callable[..., Client], configure: Callable[..., None]
) -> None:
    configure(QUEUES={"mail": {"rate": "50/s"}})
    client = visitor()

    text = client.get(address("queue")).content.decode()
    refused = post(client, address("queue"), "pause:mail")

    assert "memory of this process" in text
    assert "50/s" in text
    assert "memory of this process" in said(refused)


def test_a_purge_wants_the_name_typed(visitor: Callable[..., Client]) -> None:
    client, url = visitor(), address("queue")

    question = post(client, url, "purge:mail")
    wrong = post(client, url, "purge:mail", confirmed="1", typed="mial")

    assert "Type <code>mail</code>" in question.content.decode()
    assert "Nothing was purged" in said(wrong)


# What is recorded


def test_an_action_is_recorded_in_the_admin_a_signal_and_a_log(
    store: Store, visitor: Callable[..., Client], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "cloudtask.audit")
    heard: list[Any] = []

    def hear(**facts: Any) -> None:
        heard.append((facts["sender"], facts["user"].username, str(facts["object"])))

    signals.dashboard_action.connect(hear)
    run_id = seeding.run_of(store, 1)
    url = address("iteration", run_id)
    client = visitor()
    try:
        post(client, url, "pause")
    finally:
        signals.dashboard_action.disconnect(hear)

    entry = LogEntry.objects.get()
    assert entry.object_id == run_id
    assert entry.get_admin_url() == url
    assert heard == [("pause", "ann", f"iteration {run_id}")]
    assert "ann: pause: iteration" in caplog.text
    assert "Paused." in client.get(url).content.decode()


def test_a_receiver_that_fails_breaks_no_action(
    store: Store, visitor: Callable[..., Client]
) -> None:
    def fail(**facts: Any) -> None:
        raise RuntimeError("no")

    signals.dashboard_action.connect(fail)
    run_id = seeding.run_of(store, 1)
    try:
        post(visitor(), address("iteration", run_id), "pause")
    finally:
        signals.dashboard_action.disconnect(fail)

    assert store.load_run(run_id).state is RunState.PAUSED


@pytest.mark.parametrize(
    "until",
    [
        "0001-01-01T00:00:00+23:59",
        "9999-12-31T23:59:59-23:59",
        "9999-12-31T23:59:59.999999",
        "-1",
        "nan",
        "x" * 100_000,
        "2026-01-01T00:00:00\x00",
    ],
    ids=range(7),
)
def test_a_moment_that_somebody_has_written_breaks_nothing(
    store: Store, visitor: Callable[..., Client], until: str
) -> None:
    key = failure(store)
    client = visitor()
    for verb in ("retry-all", "discard-all"):
        fields = {"until": until, "all": "1", "confirmed": "1"}
        answer = client.post(
            f"{address('failed')}?task=nothing", {"verb": verb, **fields}
        )
        assert answer.status_code in (200, 302)
    assert store.load_failed(key) is not None
