"""Failed tasks: what is kept of a call, and what an operator can do with it."""

from __future__ import annotations

import io
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import pytest
from django.core.management import CommandError, call_command

from cloudtask import envelope, failpoints, task
from cloudtask.delivering import bulk
from cloudtask.delivering.failed import discard, retry
from cloudtask.exceptions import (
    BadSignature,
    CloudTaskError,
    EnqueueUnavailable,
    TaskNotFound,
)
from cloudtask.failpoints import Crashed
from cloudtask.models import Execution, FailedTask, Payload, PayloadChunk, UniqueKey
from cloudtask.stores import store
from cloudtask.stores.failed import FailedFilter
from tests.durability import tasks
from tests.durability.test_payloads import LARGE
from tests.testapp.models import Author

pytestmark = pytest.mark.django_db(databases="__all__")


@dataclass
class Login:
    user: str
    password: str


@task(max_attempts=1)
def log_in(*args: object, **kwargs: object) -> None:
    raise ValueError("no")


def fail(world, task, *args, retries: int = 2, **kwargs) -> FailedTask:
    """Let a call of `task` fail for good."""
    receipt = task.defer(*args, **kwargs)
    [message] = [m for m in world.queue.messages if m.id == receipt.id]
    assert world.deliver(message, retries=retries) == 200
    return FailedTask.objects.get(key=receipt.id)


def run(*arguments: str) -> str:
    out = io.StringIO()
    call_command(*arguments, stdout=out, stderr=out)
    return out.getvalue()


def test_a_failure_for_good_is_kept_at_once_with_all_there_is_to_know(world):
    before = datetime.now(UTC)
    failed = fail(world, tasks.fail_for_good, "hunter2", note="hello", retries=0)

    assert failed.task == "tests.durability.tasks.fail_for_good"
    assert (failed.queue, failed.name) == ("default", failed.key)
    assert failed.attempts == 1
    assert failed.arguments == "password='********', note='hello'"
    assert failed.error == "cloudtask.exceptions.PermanentTaskFailure: no use"
    assert "in fail_for_good" in failed.traceback
    assert "hunter2" not in failed.traceback
    assert abs(failed.enqueued_at - before) < timedelta(minutes=1)
    assert abs(failed.failed_at - before) < timedelta(minutes=1)


def test_secrets_are_hidden_however_deep_they_lie(world, configure):
    configure(
        MASKED=["PassWord", "token"],
        TRUSTED_MODULES=["tests.durability"],
    )
    secret = "hunter2"
    failed = fail(
        world,
        log_in,
        [{"password": secret, "user": "ann"}],
        ({"a": [{"api_token": secret}]},),
        Login("ben", secret),
        {"cid", "dan"},
        user_password=secret,
        deep={"a": {"b": {"Password": secret}}},
    )

    assert secret not in failed.arguments
    for shown in ("ann", "ben", "cid", "dan"):
        assert shown in failed.arguments


def test_django_s_own_words_are_hidden_in_pairs_too(world, configure):
    configure()
    secret = "hunter2"
    failed = fail(
        world,
        log_in,
        {"X-Api-Key": secret, "Authorization": secret, "set-cookie": secret},
        [["X-Api-Key", secret], ("Signature", secret), (b"passwd", secret)],
        ("Authorization", secret),
        {b"password": secret, "auth": {"a": [secret]}},
    )

    assert secret not in failed.arguments
    assert "X-Api-Key" in failed.arguments


def test_control_characters_are_escaped_in_lists_and_logs(world, caplog):
    forged = "bob\nCRITICAL forged \x1b[2J\r\x85\u2028"
    fail(world, tasks.fail_thrice, forged)
    for arguments in (
        ["list"],
        ["show", store().list_failed(task=None, limit=1)[0].key],
    ):
        out = io.StringIO()
        call_command("cloudtask_failed", *arguments, stdout=out)
        assert not any(sign in out.getvalue() for sign in "\x1b\r\x85\u2028")
    assert "\nCRITICAL" not in caplog.text


def test_long_arguments_are_shortened(world):
    failed = fail(world, log_in, list(range(1000)), "x" * 100_000)

    assert len(failed.arguments) < 1000
    assert "980 more" in failed.arguments


@pytest.mark.parametrize(
    "text", ["nul \0", "lone \ud800", "emoji \U0001f600", "x" * 10**6]
)
def test_any_text_of_an_error_can_be_kept(world, text):
    failed = fail(world, tasks.fail_thrice, text)

    assert failed.error.startswith("ValueError")


def test_a_queryset_in_the_arguments_is_not_evaluated(
    world, django_assert_max_num_queries
):
    receipt = log_in.defer(Author.objects.filter(name="nobody"))
    [message] = world.queue.messages
    assert receipt.id == message.id
    Author.objects.create(name="secret row")

    world.deliver(message, retries=2)

    assert "QuerySet of testapp.Author" in FailedTask.objects.get().arguments


def test_a_failed_task_is_enqueued_again_with_all_its_attempts(world):
    failed = fail(world, tasks.fail_unless_mended, "a")
    tasks.mended.append(True)

    assert failed.key in run("cloudtask_failed", "retry", failed.key)

    assert not FailedTask.objects.exists()
    message = world.queue.messages[-1]
    assert (message.id, message.attempts) == (failed.key, 0)
    assert world.deliver(message) == 200
    assert Author.objects.count() == 1


def test_a_failed_task_with_a_large_payload_works_when_it_is_retried(world):
    failed = fail(world, tasks.fail_unless_mended, "a", LARGE)
    assert PayloadChunk.objects.exists()
    tasks.mended.append(True)

    retry(failed.key)

    assert world.deliver(world.queue.messages[-1]) == 200
    assert Author.objects.count() == 1
    assert not PayloadChunk.objects.exists()


def test_a_failed_task_can_fail_and_be_retried_again_and_again(world):
    key = fail(world, tasks.fail_unless_mended, "a", LARGE).key
    for _ in range(3):
        retry(key)
        assert world.deliver(world.queue.messages[-1], retries=2) == 200
        [key] = FailedTask.objects.values_list("key", flat=True)

    tasks.mended.append(True)
    retry(key)
    assert world.deliver(world.queue.messages[-1]) == 200
    assert Author.objects.count() == 1


def test_a_failed_task_can_be_retried_years_later(world):
    failed = fail(world, tasks.fail_unless_mended, "a")
    tasks.mended.append(True)

    with world.later(3 * 365 * 24 * 3600):
        retry(failed.key)
        assert world.deliver(world.queue.messages[-1]) == 200


def test_a_retry_that_can_not_be_enqueued_keeps_the_failed_task(world):
    failed = fail(world, tasks.fail_thrice)
    world.queue.is_down = True

    with pytest.raises(EnqueueUnavailable):
        retry(failed.key)

    assert FailedTask.objects.exists()


def test_a_discarded_task_takes_its_payload_with_it(world):
    failed = fail(world, tasks.fail_thrice, LARGE)
    assert Payload.objects.exists()

    run("cloudtask_failed", "discard", failed.key)

    assert not FailedTask.objects.exists()
    assert not Payload.objects.exists()
    assert not PayloadChunk.objects.exists()


def test_a_failed_task_that_is_unknown_now_is_shown_and_discarded_not_retried(world):
    failed = fail(world, tasks.fail_thrice)
    rename(failed, "tests.durability.tasks.was_removed")

    assert "was_removed" in run("cloudtask_failed", "list")
    with pytest.raises(TaskNotFound):
        retry(failed.key)
    assert FailedTask.objects.exists()
    run("cloudtask_failed", "discard", failed.key)
    assert not FailedTask.objects.exists()


def rename(failed: FailedTask, path: str) -> None:
    here = ("failed", failed.key, "envelope")
    at = (*here, failed.task, failed.queue, failed.name)
    message = envelope.unseal_resting(bytes(failed.envelope), place=at)
    at = (*here, path, failed.queue, failed.name)
    failed.task = path
    failed.envelope = envelope.seal(replace(message, task=path), place=at)
    failed.save()


def test_a_failed_task_sealed_with_a_lost_key_can_still_go(world, settings):
    fail(world, tasks.fail_thrice, LARGE)
    settings.SECRET_KEY = "another"

    with pytest.raises(CommandError, match="1 failed"):
        run("cloudtask_failed", "retry", "--all")
    run("cloudtask_failed", "discard", "--all")

    assert not FailedTask.objects.exists()
    assert not Payload.objects.exists()


def test_the_command_lists_the_newest_first_and_by_task(world):
    first = fail(world, tasks.fail_thrice, "first\nof two lines")
    with world.later(60):
        second = fail(world, tasks.fail_for_good, "x")

    lines = run("cloudtask_failed", "list").splitlines()
    assert [line.split()[0] for line in lines] == [second.key, first.key]
    only = run("cloudtask_failed", "list", "--task", first.task).splitlines()
    assert [line.split()[0] for line in only] == [first.key]
    assert len(run("cloudtask_failed", "list", "--limit", "1").splitlines()) == 1


def test_the_command_shows_one_with_its_traceback(world):
    failed = fail(world, tasks.fail_for_good, "x", note="hello")

    shown = run("cloudtask_failed", "show", failed.key)

    for part in (failed.key, failed.task, "note='hello'", "Traceback", "attempts: 3"):
        assert part in shown


def test_the_command_retries_those_of_a_task_or_all(world):
    fail(world, tasks.fail_thrice, "a")
    fail(world, tasks.fail_for_good, "b")
    run("cloudtask_failed", "retry", "--task", "tests.durability.tasks.fail_thrice")
    assert FailedTask.objects.count() == 1

    run("cloudtask_failed", "retry", "--all")

    assert not FailedTask.objects.exists()
    assert len(world.queue.messages) == 4


@pytest.mark.parametrize("dots", ["", "..."])
def test_the_command_takes_the_beginning_of_a_key(world, dots):
    failed = fail(world, tasks.fail_for_good, "x")
    assert failed.key in run("cloudtask_failed", "show", failed.key[:6] + dots)
    run("cloudtask_failed", "discard", failed.key[:6] + dots)
    assert not FailedTask.objects.exists()


def test_a_beginning_of_several_keys_is_refused(world):
    for number in (1, 2):
        failed = fail(world, tasks.fail_for_good, "x")
        FailedTask.objects.filter(key=failed.key).update(key=f"c0ffee{number}")
    with pytest.raises(CommandError, match="Several keys begin with 'c0ffee'"):
        run("cloudtask_failed", "discard", "c0ffee")
    assert FailedTask.objects.count() == 2


@pytest.mark.parametrize(
    "verb",
    [("list",), ("list", "--task", "a.b"), ("retry", "--all"), ("discard", "--all")],
)
def test_the_command_says_when_there_is_nothing(world, verb):
    of_task = " of a.b" if "a.b" in verb else ""
    assert run("cloudtask_failed", *verb) == f"There are no failed tasks{of_task}.\n"


@pytest.mark.parametrize("verb", ["list", "retry", "discard"])
def test_the_command_says_when_nothing_matched(world, verb):
    fail(world, tasks.fail_for_good, "x")
    told = run("cloudtask_failed", verb, "--error", "NoSuchError")
    assert told == (
        "There are no failed tasks that match --error, --queue and --since.\n"
    )


@pytest.mark.parametrize(
    "arguments", [("--no-color", "list"), ("list", "--no-color", "--verbosity", "0")]
)
def test_the_command_takes_djangos_options_before_and_behind_the_verb(world, arguments):
    assert "no failed tasks" in run("cloudtask_failed", *arguments)


def test_one_that_can_not_be_retried_keeps_no_other_back(world):
    fail(world, tasks.fail_thrice, "a")
    rename(fail(world, tasks.fail_thrice, "b"), "tests.durability.tasks.was_removed")
    fail(world, tasks.fail_thrice, "c")

    with pytest.raises(CommandError, match="1 failed"):
        run("cloudtask_failed", "retry", "--all")

    assert FailedTask.objects.count() == 1


@pytest.mark.parametrize("verb", ["show", "retry", "discard"])
def test_a_key_that_is_not_there_is_an_error(world, verb):
    with pytest.raises(CommandError):
        run("cloudtask_failed", verb, "nobody")


def test_all_is_never_meant_by_nothing(world):
    fail(world, tasks.fail_thrice)
    with pytest.raises(CommandError, match="--all"):
        run("cloudtask_failed", "discard")

    assert FailedTask.objects.exists()


def test_pruning_keeps_what_is_young_and_removes_what_is_old(world, configure):
    configure(KEEP_FAILED=timedelta(days=10))
    fail(world, tasks.fail_thrice, LARGE)
    tasks.once.defer("a")
    world.deliver(world.queue.messages[-1])
    tasks.single.defer("a")
    day = 24 * 3600
    assert run("cloudtask_prune") == "There was nothing to remove.\n"
    with world.later(11 * day):
        assert "removed 1 failed tasks, 0 payloads, 0 exec" in run("cloudtask_prune")
        assert not Payload.objects.exists()
    with world.later(40 * day):
        run("cloudtask_prune")

    assert not Execution.objects.exists()
    assert not UniqueKey.objects.exists()


def test_pruning_removes_orphaned_payloads(world):
    store().save_payload("orphan", b"x")
    tasks.plain.defer("a", LARGE)
    world.deliver_all()
    assert Payload.objects.count() == 2

    with world.later(63 * 24 * 3600):
        assert "2 payloads" in run("cloudtask_prune")

    assert not Payload.objects.exists()


def test_pruning_takes_an_age_for_failed_tasks(world):
    fail(world, tasks.fail_thrice)

    with world.later(2 * 24 * 3600):
        run("cloudtask_prune", "--failed-older-than", "3")
        assert FailedTask.objects.exists()
        run("cloudtask_prune", "--failed-older-than", "1")

    assert not FailedTask.objects.exists()


def test_retrying_what_is_not_there_says_so(world):
    with pytest.raises(CloudTaskError, match="nobody"):
        retry("nobody")
    assert discard("nobody") is False


def test_an_envelope_of_another_failed_task_is_refused(world):
    ours, theirs = (fail(world, log_in, n) for n in ("a", "b"))
    FailedTask.objects.filter(key=ours.key).update(envelope=theirs.envelope)
    before = len(world.queue.messages)

    with pytest.raises(BadSignature, match=ours.key):
        retry(ours.key)

    assert len(world.queue.messages) == before
    assert FailedTask.objects.count() == 2


@pytest.mark.parametrize("column", ["task", "queue", "name"])
def test_a_failed_task_that_seems_to_be_another_one_is_not_retried(world, column):
    failed = fail(world, log_in, "a")
    FailedTask.objects.filter(key=failed.key).update(**{column: "harmless"})
    before = len(world.queue.messages)

    with pytest.raises(BadSignature, match="failed / "):
        retry(failed.key)

    assert len(world.queue.messages) == before
    assert discard(failed.key)


def test_an_envelope_that_travels_does_not_rest(world):
    failed = fail(world, log_in, "a")
    FailedTask.objects.filter(key=failed.key).update(
        envelope=envelope.seal(world.queue.messages[0])
    )

    with pytest.raises(BadSignature, match="is refused"):
        retry(failed.key)


def test_a_retry_that_was_killed_before_the_delete_can_be_repeated(world):
    failed = fail(world, tasks.fail_thrice)
    before = len(world.queue.messages)
    with failpoints.at("bulk.sent", failpoints.crash), pytest.raises(Crashed):
        retry(failed.key)
    assert FailedTask.objects.count() == 1

    again = retry(failed.key)

    assert not FailedTask.objects.exists()
    assert [m.name for m in world.queue.messages[before:]] == [again.name]


def test_one_that_cannot_be_retried_keeps_no_other_back(world):
    keys = [fail(world, tasks.fail_thrice).key for _ in range(3)]
    FailedTask.objects.filter(key=keys[1]).update(envelope=b"altered")

    report = bulk.act_on(keys, bulk.retry)

    assert report.done == 2
    assert [key for key, _ in report.problems] == [keys[1]]
    assert [row.key for row in FailedTask.objects.all()] == [keys[1]]


@pytest.mark.parametrize("name", [bulk.RETRY, bulk.DISCARD])
def test_tasks_of_the_library_take_all_page_by_page(world, monkeypatch, name):
    monkeypatch.setattr(bulk, "PAGE", 2)
    keys = [fail(world, tasks.fail_thrice).key for _ in range(5)]
    FailedTask.objects.filter(key=keys[2]).update(envelope=b"altered")
    late = bulk.until_now(FailedFilter())
    with world.later(60):
        fail(world, tasks.fail_thrice)
    before = len(world.queue.messages)

    bulk.enqueue(name, late)
    pages = 0
    while ours := [m for m in world.queue.messages[before:] if m.task == name][pages:]:
        world.deliver(ours[0])
        pages += 1

    assert pages == 3
    left = FailedTask.objects.filter(key__in=keys)
    assert [row.key for row in left] == ([keys[2]] if name == bulk.RETRY else [])
    assert FailedTask.objects.count() == left.count() + 1


def test_the_command_reads_more_than_a_page(world, monkeypatch):
    monkeypatch.setattr(bulk, "PAGE", 2)
    for _ in range(5):
        fail(world, tasks.fail_thrice)

    assert run("cloudtask_failed", "discard", "--all").count("discarded") == 5


def test_calls_that_fail_alike_have_one_group(world):
    alike = [fail(world, log_in, n) for n in ("a", "b")]
    other = fail(world, tasks.fail_thrice)

    assert alike[0].group == alike[1].group != other.group
    assert (alike[0].kind, len(alike[0].group)) == ("ValueError", 32)


def test_relay_sweep_and_prune_note_that_they_ran(world):
    assert store().upkeep() == {}

    run("cloudtask_relay")
    run("cloudtask_prune")

    noted = store().upkeep()
    assert set(noted) == {"relay", "sweep", "prune"}
    assert noted["relay"].report == "0 sent, 0 postponed, 0 parked"
