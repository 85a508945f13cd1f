"""How a relay is asked for: by command, by URL, and beside an enqueue."""

from __future__ import annotations

import io
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from django.core.management import CommandError, call_command, load_command_class
from django.db import connections, transaction

from cloudtask import call, failpoints
from cloudtask.exceptions import ConfigurationError, EnqueueUnavailable
from cloudtask.models import OutboxMessage
from cloudtask.sending import on_commit, relay
from cloudtask.targets import oidc
from tests.durability import tasks
from tests.durability.left import keys, leave_behind, waiting
from tests.support.site import http_settings
from tests.support.tokens import issuing

pytestmark = pytest.mark.django_db(databases="__all__")


def test_the_command_sends_lists_and_releases(world):
    [left] = leave_behind(queue="new")
    world.queue.missing = {"new"}
    OutboxMessage.objects.update(attempts=relay.PARK_AFTER)
    with world.later(60):
        assert "1 parked" in run("cloudtask_relay")
        assert left in run("cloudtask_relay", "--parked")
        world.queue.missing = set()
        out = run("cloudtask_relay", "--release", "--database", "default")

    assert "1 released" in out
    assert "1 sent" in out


def test_the_command_says_when_nothing_matches(world):
    assert run("cloudtask_relay", "--parked") == "No task is parked.\n"
    nothing = "The outbox has nothing to send.\n"
    assert run("cloudtask_relay") == nothing
    assert run("cloudtask_relay", "--release") == f"No task is parked.\n{nothing}"


@pytest.mark.parametrize("command", ["cloudtask_relay", "cloudtask_prune"])
@pytest.mark.parametrize("first", [True, False])
def test_options_of_django_may_come_first_or_last(command, first):
    common = [
        "--verbosity",
        "2",
        "--no-color",
        "--traceback",
        "--settings=tests.settings",
    ]
    own = ["--limit", "5"]
    arguments = [*common, *own] if first else [*own, *common]
    parser = load_command_class("cloudtask", command).create_parser(
        "manage.py", command
    )
    found = parser.parse_args(arguments)
    assert (found.verbosity, found.limit, found.traceback) == (2, 5, True)


def test_the_command_names_the_nearest_of_a_database_that_is_not_there(world):
    with pytest.raises(CommandError, match="did you mean 'other'"):
        run("cloudtask_relay", "--database", "otter")


@pytest.mark.parametrize("name", [signal.SIGTERM, signal.SIGINT])
def test_the_looping_command_ends_with_a_signal(world, name):
    leave_behind()
    with (
        world.later(60),
        failpoints.at("relay.after_send", lambda: os.kill(os.getpid(), name)),
    ):
        out = run("cloudtask_relay", "--loop", "3600")

    assert "1 sent" in out
    assert out.endswith("stopped\n")


def test_the_command_fails_when_all_is_postponed_and_tells_why_once(world, caplog):
    leave_behind(3)
    world.queue.is_down = True
    with world.later(60), pytest.raises(CommandError, match="Nothing was sent") as told:
        run("cloudtask_relay")

    assert told.value.returncode == 1
    assert caplog.text.count("Messages were not sent from 'default': ") == 1

    world.queue.is_down = False
    with world.later(120):
        assert "3 sent" in run("cloudtask_relay")


def test_a_commit_tells_once_why_several_messages_stay(world, caplog, mocker):
    reason = ConfigurationError("No credentials.")
    mocker.patch.object(type(world.queue), "send", side_effect=reason)
    mocker.patch.object(type(world.queue), "send_many", side_effect=reason)
    with transaction.atomic():
        tasks.plain.defer_many([call("a"), call("b"), call("c")])

    assert caplog.text.count("No credentials.") == 1
    assert "3 messages stay in the outbox of 'default', for example" in caplog.text
    assert f"this one: Task {tasks.plain.path} (" in caplog.text


@pytest.mark.parametrize("number", [1, 3])
@pytest.mark.parametrize(
    "reason", ["Task {} ({}) was not enqueued: no answer.", "No account.", ""]
)
def test_a_commit_names_a_task_whose_message_stays_once(
    world, caplog, mocker, reason, number
):
    def refused(message):
        return EnqueueUnavailable(reason.format(message.task, message.id))

    queue = type(world.queue)
    mocker.patch.object(queue, "send", side_effect=lambda m: raise_(refused(m)))
    mocker.patch.object(queue, "send_many", side_effect=lambda ms: [*map(refused, ms)])
    with transaction.atomic():
        first, *_ = tasks.plain.defer_many([call("a")] * number)

    [line] = [one.getMessage() for one in caplog.records]
    assert line.count(tasks.plain.path) == line.count(first.id) == 1
    assert line.startswith("3 messages" if number == 3 else "A message")
    assert (reason.format(tasks.plain.path, first.id) or "EnqueueUnavailable") in line


def raise_(error):
    raise error


def run(*arguments: str) -> str:
    out = io.StringIO()
    call_command(*arguments, stdout=out)
    return out.getvalue()


def test_the_url_relays_for_whoever_has_the_token(world, configure, client):
    configure(
        RELAY_TOKEN="t0ken", TARGET={"BACKEND": "cloudtask.targets.AppEngineTarget"}
    )
    leave_behind()
    with world.later(60):
        for headers, status in [
            ({}, 403),
            ({"Authorization": "Bearer wrong"}, 403),
            ({"Authorization": "Bearer "}, 403),
            ({"X-Appengine-Cron": "true"}, 403),
            ({"X-AppEngine-QueueName": "default"}, 403),
            ({"Authorization": "Bearer t0ken"}, 200),
        ]:
            answer = client.post("/_cloudtask/relay/", headers=headers)
            assert answer.status_code == status, headers

    assert b" 1 sent, 0 postponed, 0 parked" in answer.content


def test_the_url_relays_for_app_engines_cron(world, configure, client, monkeypatch):
    configure(TARGET={"BACKEND": "cloudtask.targets.AppEngineTarget"})
    monkeypatch.setenv("GAE_ENV", "standard")

    assert client.get("/_cloudtask/relay/").status_code == 403
    answer = client.get("/_cloudtask/relay/", headers={"X-Appengine-Cron": "true"})

    assert answer.status_code == 200


def test_the_url_passes_over_a_database_without_the_tables(world, relay_url):
    leave_behind(database="other")
    with without_an_outbox("default"), world.later(60):
        answer = relay_url()

    assert answer.status_code == 200
    assert b" 1 sent" in answer.content


def test_the_url_does_all_else_when_a_database_fails(world, relay_url, mocker):
    leave_behind(database="other")
    mocker.patch.object(relay, "has_outbox", return_value=True)
    swept = mocker.patch("cloudtask.views.sweep", return_value=0)
    with without_an_outbox("default"), world.later(60):
        answer = relay_url()

    assert answer.status_code == 500
    assert waiting("other") == []
    swept.assert_called_once_with()


def test_the_url_answers_500_when_a_sweep_fails(world, relay_url, mocker):
    leave_behind()
    mocker.patch("cloudtask.views.sweep", side_effect=ValueError("a run"))
    with world.later(60):
        answer = relay_url()

    assert answer.status_code == 500
    assert answer.content.endswith(b" 1 sent, 0 postponed, 0 parked")


@pytest.fixture
def relay_url(configure, client):
    """Ask the URL to relay; the answer."""
    configure(RELAY_TOKEN="t0ken")
    headers = {"Authorization": "Bearer t0ken"}
    return lambda: client.post("/_cloudtask/relay/", headers=headers)


@contextmanager
def without_an_outbox(alias: str) -> Iterator[None]:
    table = OutboxMessage._meta.db_table
    with connections[alias].schema_editor() as editor:
        editor.alter_db_table(OutboxMessage, table, "elsewhere")
    try:
        yield
    finally:
        with connections[alias].schema_editor() as editor:
            editor.alter_db_table(OutboxMessage, "elsewhere", table)


def test_the_url_takes_get_and_post_alone(world, client):
    assert client.put("/_cloudtask/relay/").status_code == 405


@pytest.fixture
def piggybacking(world, monkeypatch):
    """A transport beside which commits relay, and no look at the outbox yet."""
    world.queue.piggybacks = True
    monkeypatch.setattr(on_commit.piggyback, "next", {})


def test_enqueues_relay_a_little_now_and_then(world, piggybacking):
    left = leave_behind(30)
    with world.later(60):
        commit_one()
        assert len(waiting()) == 30

        on_commit.piggyback.next["default"] = 0.0
        commit_one()
        assert len(waiting()) == 10
        commit_one()

    assert len(waiting()) == 10
    assert len(set(left) & set(keys(world))) == 20


def test_a_relay_beside_an_enqueue_never_raises_into_it(world, piggybacking):
    leave_behind()
    on_commit.piggyback.next["default"] = 0.0

    def explode() -> None:
        raise RuntimeError("a defect")

    with world.later(60), failpoints.at("relay.claimed", explode):
        enqueued = commit_one()

    assert enqueued in keys(world)


def test_no_relay_rides_along_with_a_transport_that_refuses_it(world, monkeypatch):
    leave_behind()
    monkeypatch.setattr(on_commit.piggyback, "next", {"default": 0.0})

    with world.later(60):
        commit_one()

    assert len(waiting()) == 1


def commit_one() -> str:
    with transaction.atomic():
        return tasks.plain.defer("one").id


def test_the_url_relays_for_the_account_of_the_target(world, settings, client):
    with issuing() as issuer:
        settings.CLOUDTASK = http_settings(issuer.url)
        oidc.certificates.clear()
        stranger = issuer.token(email="stranger@p.iam.gserviceaccount.com")
        for token, status in [
            (stranger, 403),
            ("no token", 403),
            (issuer.token(), 200),
        ]:
            headers = {"Authorization": f"Bearer {token}"}
            answer = client.post("/_cloudtask/relay/", headers=headers)
            assert answer.status_code == status
        oidc.certificates.clear()
