"""Plans and their application, against our emulator."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from cloudtask import conf, queues
from cloudtask.conf.queues import Queue
from cloudtask.emulator import Emulator
from cloudtask.queues import applying, plan
from cloudtask.queues.actual import ActualQueue
from cloudtask.transports.cloud.client import clients

PARENT = "projects/p/locations/l"
DECLARED = {
    "mail": {"rate": "50/s", "concurrency": 20, "backoff": "1s..10m"},
    "bulk": {"rate": "500/s"},
}


def actual(**values: Any) -> ActualQueue:
    given: dict[str, Any] = {
        "name": "mail",
        "state": "RUNNING",
        "rate": 50.0,
        "concurrency": 20,
        "max_attempts": -1,
        "max_retry_duration": timedelta(0),
        "min_backoff": timedelta(seconds=1),
        "max_backoff": timedelta(minutes=10),
        "doublings": 16,
    }
    return ActualQueue(**{**given, **values})


# Pure


def one_step(declared: Queue, there: ActualQueue | None) -> plan.Step:
    found = {} if there is None else {"mail": there}
    [step] = plan.planned({"mail": declared}, found)
    return step


def test_what_is_not_declared_is_not_ours() -> None:
    step = one_step(Queue(name="mail"), actual(rate=1.0, concurrency=1, doublings=3))

    assert step.action == plan.SAME


def test_the_service_must_never_give_up() -> None:
    step = one_step(Queue(name="mail", max_attempts=10), actual(max_attempts=100))

    assert step.action == plan.CHANGE
    assert [(d.path, d.before, d.after) for d in step.differences] == [
        ("retry_config.max_attempts", 100, -1)
    ]


def test_values_are_compared_as_the_service_stores_them() -> None:
    backoff = conf.queues._queue_backoff("1.9s..10m")
    declared = Queue(name="mail", rate=50.04, backoff=backoff)

    step = one_step(declared, actual(doublings=backoff.doublings))

    assert step.action == plan.SAME


def test_a_queue_that_is_managed_elsewhere_is_compared_only() -> None:
    declared = Queue(name="mail", rate=5.0, managed=False)

    step = one_step(declared, actual())

    assert step.action == plan.UNMANAGED
    assert not step.is_write
    assert len(step.differences) == 1


def test_a_disabled_queue_is_told_and_not_written() -> None:
    step = one_step(Queue(name="mail", rate=5.0), actual(state="DISABLED"))

    assert step.action == plan.DISABLED
    assert not step.is_write


@pytest.mark.parametrize(
    ("rate", "is_tenfold"), [(5.0, True), (6.0, False), (500.0, True)]
)
def test_tenfold_changes_are_found(rate: float, is_tenfold: bool) -> None:
    assert one_step(Queue(name="mail", rate=rate), actual()).is_tenfold is is_tenfold


def test_the_words_of_other_tools() -> None:
    declared = {"mail": Queue(name="mail", rate=5.0)}
    steps = plan.planned(declared, {"mail": actual(max_attempts=9)})

    assert list(plan.as_gcloud(steps, PARENT)) == [
        "gcloud tasks queues update mail --project=p --location=l "
        "--max-attempts=unlimited --max-dispatches-per-second=5"
    ]
    text = "\n".join(plan.as_terraform(declared, PARENT))
    assert 'resource "google_cloud_tasks_queue" "mail"' in text
    assert "max_attempts = -1" in text
    assert "max_dispatches_per_second = 5" in text


# Against the emulator


@pytest.fixture
def service(
    settings: Any, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., None]]:
    """A service with the queues `mail` and `other`, and QUEUES to be declared."""
    names = (f"{PARENT}/queues/mail", f"{PARENT}/queues/other")
    with Emulator(port=0, target="http://127.0.0.1:9", queues=names) as emulator:
        monkeypatch.setenv("CLOUD_TASKS_EMULATOR_HOST", emulator.address)
        monkeypatch.setattr(applying, "PAUSE", 0.0)
        queues.forget_cached()

        def declare(declared: Any = DECLARED) -> None:
            settings.CLOUDTASK = {
                "PROJECT": "p",
                "LOCATION": "l",
                "TRANSPORT": {"BACKEND": conf.CLOUD_TRANSPORT},
                "QUEUES": declared,
            }

        declare()
        yield declare


def run(*arguments: str) -> str:
    out = io.StringIO()
    call_command("cloudtask_queues", *arguments, stdout=out, stderr=out)
    return out.getvalue()


def differences() -> dict[str, str]:
    out = io.StringIO()
    with suppress(SystemExit):  # of status 3, if there are differences
        call_command("cloudtask_queues", "plan", "--json", stdout=out)
    rows = [json.loads(line) for line in out.getvalue().splitlines()]
    return {row["queue"]: row["action"] for row in rows}


def test_a_list_has_what_waits_in_each_queue(service: Callable[..., None]) -> None:
    queues.pause("mail")
    for _ in range(3):
        clients.get().create_task(
            parent=f"{PARENT}/queues/mail",
            task={"http_request": {"url": "http://127.0.0.1:9/"}},
        )

    mail, other = (json.loads(line) for line in run("list", "--json").splitlines())

    assert (mail["queue"], mail["waiting"]) == ("mail", 3)
    assert mail["oldest due"].endswith(" UTC")
    assert (other["waiting"], other["oldest due"]) == (0, "")
    assert "oldest due" in run("list")


def test_a_plan_is_applied_once(service: Callable[..., None]) -> None:
    assert differences() == {"bulk": "create", "mail": "change", "other": "unmanaged"}

    run("apply", "--yes", "--force")

    assert differences() == {"bulk": "same", "mail": "same", "other": "unmanaged"}
    found = queues.list_queues()
    assert (found["mail"].rate, found["mail"].concurrency) == (50.0, 20)
    assert found["bulk"].max_attempts == -1
    assert "create" not in run("apply", "--yes")


def test_an_update_leaves_what_is_not_declared(service: Callable[..., None]) -> None:
    before = queues.list_queues()["mail"]
    service({"mail": {"concurrency": before.concurrency - 1}})

    run("apply", "--yes")

    after = queues.list_queues()["mail"]
    assert after.concurrency == before.concurrency - 1
    assert after == replace(
        before,
        concurrency=after.concurrency,
        max_attempts=-1,
        max_retry_duration=timedelta(0),
    )


def test_a_change_behind_the_plan_stops_it(service: Callable[..., None]) -> None:
    steps = plan.planned(conf.settings().queues, queues.list_queues())
    [step] = [one for one in steps if one.name == "mail"]
    queues.pause("mail")

    with pytest.raises(applying.QueueChanged, match="plan again"):
        applying.apply(step, sleep=lambda seconds: None)


def test_a_tenfold_change_wants_force(service: Callable[..., None]) -> None:
    service({"mail": {"rate": "1/m"}})

    with pytest.raises(CommandError, match="--force"):
        run("apply", "--yes")


def test_nothing_is_written_without_consent(
    service: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("builtins.input", lambda question: "n")

    with pytest.raises(CommandError, match="Nothing is done"):
        run("apply", "--force")
    assert differences()["bulk"] == "create"


def test_queues_are_paused_resumed_and_purged(service: Callable[..., None]) -> None:
    assert "mail: paused" in run("pause", "mail")
    assert queues.list_queues()["mail"].state == "PAUSED"
    assert "PAUSED" in run("list")
    assert "sends again" in run("resume", "mail")
    with pytest.raises(CommandError, match="--confirm mail"):
        run("purge", "mail", "--confirm", "mial")
    assert "being purged" in run("purge", "mail", "--confirm", "mail")
    with pytest.raises(CommandError, match="1 failed"):
        run("pause", "nobody", "mail")
    assert queues.list_queues()["mail"].state == "PAUSED"


def test_a_queue_is_deleted_once_its_name_is_repeated(
    service: Callable[..., None],
) -> None:
    with pytest.raises(CommandError, match=r"can't be used for some days: add"):
        run("delete", "other")

    assert "other: deleted" in run("delete", "other", "--confirm", "other")

    assert "other" not in queues.list_queues()
    with pytest.raises(CommandError, match="1 failed"):
        run("delete", "other", "--confirm", "other")


def test_a_queue_yaml_is_warned_of(
    service: Callable[..., None], tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert "queue.yaml" not in run("apply", "--yes", "--force")
    (tmp_path / "queue.yaml").write_text("queue: []")

    assert "disables every queue that it omits" in run("plan")
    assert "disables every queue that it omits" in run("apply", "--yes")


def test_a_plan_tells_by_its_status_that_there_is_work(
    service: Callable[..., None],
) -> None:
    with pytest.raises(SystemExit) as raised:
        run("plan")
    assert raised.value.code == 3
    run("apply", "--yes", "--force")

    run("plan")
