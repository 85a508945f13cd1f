"""Chains: values handed on, refusals before anything is sent, failures, and retries."""

from __future__ import annotations

import copy
from collections import Counter
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.db import transaction

from cloudtask import Failure, TaskFailed, call, chain, group, quotas
from cloudtask.chains import handing
from cloudtask.chains.rest import Rest
from cloudtask.chains.steps import GroupStep
from cloudtask.delivering import failed, results
from cloudtask.exceptions import EnqueueUnavailable, QueueNotFound, UnsupportedValue
from cloudtask.models import FailedTask, OutboxMessage, WorkflowGroup
from cloudtask.testing import Faults, arun_queued, queued, run_queued
from tests.testapp.models import Author
from tests.workflows import tasks
from tests.workflows.retrying import retry_failed

pytest_plugins = ["tests.stores.datastore_fixtures"]


# What is handed on


@pytest.mark.parametrize(
    "value",
    [
        None,
        False,
        [],
        (),
        (1, 2),
        {"a": 1},
        "line\nbreak \u2028 \ud800",
        b"\n",
        "]},[",
        datetime(2026, 10, 25, 1, 30, tzinfo=UTC),
        call,
    ],
)
def test_a_value_is_handed_on_exactly_and_not_unpacked(db: None, value: Any) -> None:
    receipt = chain(tasks.give.s(value), tasks.pair.s(1), tasks.collect.s()).defer()
    run_queued()

    result = receipt.result()

    assert result == (value, 1)
    assert type(result[0]) is type(value)


def test_an_instance_is_handed_on(db: None) -> None:
    author = Author.objects.create(name="Ada")
    receipt = chain(tasks.give.s(author), tasks.collect.s()).defer()
    run_queued()

    assert receipt.result() == author


def test_a_value_comes_before_the_own_arguments(db: None) -> None:
    receipt = chain(tasks.add.s(1), tasks.pair.s(number=5), tasks.collect.s()).defer()
    run_queued()

    assert receipt.result() == (2, 5)


def test_methods_get_the_value_after_their_subject(db: None) -> None:
    price = tasks.Shop.price
    receipt = chain(price.s(2), price.s(3), price.s(factor=5)).defer()
    run_queued()

    assert receipt.result() == 2 * 2 * 3 * 5


def test_an_immutable_step_gets_no_value_and_the_one_before_may_be_anything(
    db: None,
) -> None:
    receipt = chain(
        tasks.untransportable.s(), tasks.nothing.si(), tasks.collect.s()
    ).defer()
    run_queued()

    assert receipt.result() is None


def test_a_large_value_rests_in_the_store(anywhere: str) -> None:
    size = 3_000_000
    receipt = chain(tasks.blob_unkept.s(size), tasks.length.s()).defer()
    run_queued()

    assert receipt.result() == size


def test_large_arguments_of_later_steps_rest_in_the_store(anywhere: str) -> None:
    more = "y" * 2_000_000
    receipt = chain(tasks.blob.s(3), tasks.length.s(more)).defer()
    run_queued(faults=Faults(duplicate=1.0, lose_ack=0.5), errors="retry")

    assert receipt.result() == 2_000_003


def test_a_redelivery_with_another_value_does_not_change_what_was_handed_on(
    anywhere: str,
) -> None:
    receipt = chain(tasks.growing.s(1_500_000), tasks.length.s()).defer()
    run_queued(faults=Faults(duplicate=1.0, seed=3), errors="retry")

    assert tasks.seen.count("growing") > 1
    assert receipt.result() == 1_500_001


def test_a_chain_of_a_thousand_steps_runs(db: None) -> None:
    receipt = chain(tasks.add.s(0), *[tasks.add.s() for _ in range(999)]).defer()
    run_queued()

    assert receipt.result() == 1000


def test_a_chain_inside_a_chain_is_a_part_of_it(db: None) -> None:
    inner = chain(tasks.add.s(), tasks.add.s(10))
    receipt = chain(tasks.add.s(1), inner, inner, tasks.add.s(100)).defer()
    run_queued()

    assert receipt.result() == 124


def test_one_signature_may_stand_in_several_chains(db: None) -> None:
    step = tasks.add.s(5)
    receipts = [chain(tasks.add.s(n), step, step).defer() for n in range(3)]
    run_queued()

    assert [one.result() for one in receipts] == [11, 12, 13]


def test_asynchronous_code_defers_chains(db: None) -> None:
    async def waits() -> int:
        receipt = await chain(tasks.add.s(1), tasks.aadd.s(2)).adefer()
        await arun_queued()
        return await receipt.aresult(timeout=5)

    assert async_to_sync(waits)() == 4


def test_a_countdown_of_a_step_begins_at_the_hand_over(db: None) -> None:
    chain(tasks.add.s(1), tasks.add.using(countdown=60).s(), tasks.add.s()).using(
        countdown=3600
    ).defer()
    report = run_queued()

    first, second, third = (attempt.at for attempt in report.attempts)
    assert second - first == timedelta(seconds=60)
    assert third == second
    assert run_queued(until=1).attempts == []


def test_options_of_steps_travel(db: None) -> None:
    chain(tasks.add.s(1), tasks.add.using(queue="slow", max_attempts=7).s()).defer()
    run_queued(queue="default", recursive=False)

    [waiting] = queued()
    assert (waiting.queue, waiting.options.max_attempts) == ("slow", 7)


def test_steps_have_their_own_results(db: None) -> None:
    receipt = chain(tasks.add.s(1), tasks.add.s(10)).defer()
    report = run_queued()

    assert receipt.id == report.attempts[-1].id
    assert all(results.find(attempt.id) for attempt in report.attempts)


# Transactions


def _begin(value: str) -> None:
    chain(tasks.give.s(value), tasks.collect.s()).defer()
    group(tasks.give.s(value)).then(tasks.collect.s()).defer()


def _begin_and_raise(value: str) -> None:
    with transaction.atomic():
        _begin(value)
        raise KeyError(value)


def test_a_rollback_drops_chains_and_groups(db: None) -> None:
    with pytest.raises(KeyError):
        _begin_and_raise("dropped")

    assert run_queued().attempts == []
    assert OutboxMessage.objects.count() == WorkflowGroup.objects.count() == 0


def test_a_commit_sends_what_a_savepoint_did_not_drop(db: None) -> None:
    with transaction.atomic():
        _begin("kept")
        with pytest.raises(KeyError):
            _begin_and_raise("dropped")
        assert len(queued()) == 2
        assert all(one.awaits_commit for one in queued())
    run_queued()

    given = [value for _, value in tasks.seen]
    assert given.count("kept") == 3
    assert given.count(["kept"]) == 1
    assert len(given) == 4


# Refusals: nothing is sent


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: chain(tasks.add.s(), tasks.add.s()), "step 1, .*missing.*'a'"),
        (lambda: chain(tasks.add.s(1), tasks.nothing.s()), "step 2, .*nothing"),
        (lambda: chain(tasks.add.s(1), tasks.pair.s()), "step 2, .*missing.*'number'"),
        (lambda: chain(tasks.add.s(1), tasks.add.s(c=1)), "unexpected keyword.*'c'"),
        (lambda: chain(tasks.add.s(1), tasks.add.si()), "step 2, .*missing.*'a'"),
        (
            lambda: chain(tasks.add.s(1), group(tasks.add.s(1), tasks.nothing.s())),
            "step 2, member 2, .*nothing",
        ),
        (
            lambda: group(chain(tasks.add.s(1), tasks.add.s(1, 2))),
            "member 1, step 2",
        ),
        (lambda: chain(tasks.add.using(unique=True).s(1)), "can't have.*'unique'"),
        (lambda: chain(tasks.add.using(name="n").s(1)), "can't have.*'name'"),
        (lambda: chain(tasks.add.s(1), on_failure=tasks.nothing.s()), "on_failure, "),
    ],
)
def test_every_signature_is_checked_before_anything_is_sent(
    db: None, make: Any, text: str
) -> None:
    with pytest.raises(TypeError, match=text):
        make().defer()
    assert queued() == []
    assert WorkflowGroup.objects.count() == 0


@pytest.mark.parametrize(
    ("make", "hint"),
    [
        (
            lambda: chain(tasks.add.s(1), tasks.give.s(2)),
            "too many positional arguments. The value of the step before comes first; "
            "write `give.si(...)` to leave it out.",
        ),
        (
            lambda: chain(tasks.add.s(1), on_failure=tasks.nothing.s()),
            "The Failure comes first; write `nothing.si(...)` to leave it out.",
        ),
        (lambda: chain(tasks.add.s(1), tasks.pair.s()), "'number'."),
    ],
)
def test_a_value_too_many_is_told(db: None, make: Any, hint: str) -> None:
    with pytest.raises(TypeError) as raised:
        make().defer()
    assert str(raised.value).endswith(hint)


def test_an_argument_that_cannot_travel_is_refused_with_its_step(db: None) -> None:
    with pytest.raises(UnsupportedValue, match=r"step 3, args\[0\]"):
        chain(tasks.give.s(1), tasks.collect.s(), tasks.give.si(lambda: 1)).defer()
    assert queued() == []


def test_a_queue_that_does_not_exist_is_refused_with_its_step(
    db: None, settings: Any
) -> None:
    settings.CLOUDTASK = {**settings.CLOUDTASK, "QUEUES": {"default": {}}}
    with pytest.raises(QueueNotFound, match=r"step 2, .*'slow'"):
        chain(tasks.add.s(1), tasks.add.using(queue="slow").s()).defer()
    assert queued() == []


@pytest.mark.parametrize("part", [tasks.add, 5, None, lambda: 1])
def test_what_is_no_signature_is_refused(part: Any) -> None:
    with pytest.raises(TypeError, match=r"chain\(\) takes"):
        chain(tasks.add.s(1), part)
    with pytest.raises(TypeError, match=r"group\(\) takes"):
        group(tasks.add.s(1), part)


def test_a_task_without_s_is_told_to_write_it() -> None:
    with pytest.raises(TypeError, match=r"write add\.s\(\.\.\.\)"):
        chain(tasks.add.s(1), tasks.add)


def test_an_empty_chain_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one step"):
        chain()


def test_a_chain_that_is_too_long_is_refused() -> None:
    with pytest.raises(ValueError, match="1,000 steps at most"):
        chain(*[tasks.add.s(1)] * 1001)


def test_trees_that_are_too_deep_are_refused(db: None) -> None:
    tree: Any = tasks.nothing.s()
    for _ in range(30):
        tree = group(tree)
    with pytest.raises(ValueError, match="20 levels deep"):
        tree.defer()


def test_no_repr_shows_an_argument() -> None:
    whole = chain(tasks.give.s("s3cret"), group(tasks.give.si("s3cret")))

    assert "s3cret" not in repr(whole)
    assert "give.s(...)" in repr(whole)


# Failures


def test_a_failure_holds_the_rest_and_a_retry_goes_on(anywhere: str) -> None:
    tasks.broken.add(2)
    receipt = chain(tasks.add.s(1), tasks.fragile.s(), tasks.add.s(1)).defer()
    run_queued(errors="retry")
    assert tasks.seen == [("add", 1, 1)]
    with pytest.raises(TaskFailed, match="2 is broken"):
        receipt.result()

    tasks.broken.clear()
    retry_failed()
    run_queued()

    assert receipt.result() == 21


def test_a_failure_that_is_discarded_ends_the_chain(anywhere: str) -> None:
    tasks.broken.add(2)
    chain(tasks.add.s(1), tasks.fragile.s(), tasks.add.s(1)).defer()
    report = run_queued(errors="retry")

    assert failed.discard(report.attempts[-1].id)
    assert run_queued().attempts == []


def test_a_retry_of_the_task_itself_drops_nothing(anywhere: str) -> None:
    receipt = chain(
        tasks.add.s(1), tasks.patient.s(), tasks.patient.s(), tasks.add.s(1)
    ).defer()
    run_queued()

    assert receipt.result() == 3


def test_on_failure_is_called_once_for_each_failure_that_is_kept(
    anywhere: str,
) -> None:
    tasks.broken.add(2)
    chain(
        tasks.add.s(1),
        tasks.fragile.s(),
        tasks.add.s(1),
        on_failure=tasks.note_failure.s(tag="x"),
    ).defer()
    faults = Faults(duplicate=0.5, lose_ack=0.5, seed=1)
    run_queued(faults=faults, errors="retry")

    names = Counter(failure.id for failure in tasks.failures)
    assert len(names) == 1
    [failure] = {*tasks.failures}
    assert isinstance(failure, Failure)
    assert failure.place == 1
    assert failure.task == "tests.workflows.tasks.fragile"
    assert failure.error == "ValueError: 2 is broken"
    assert "raise ValueError" in failure.traceback


def test_a_second_failure_after_a_retry_is_told_again(db: None) -> None:
    tasks.broken.add(2)
    chain(tasks.add.s(1), tasks.fragile.s(), on_failure=tasks.note_failure.s()).defer()
    run_queued(errors="retry")
    assert len(tasks.failures) == 1
    retry_failed(mended=False)
    run_queued(errors="retry")

    assert len(tasks.failures) == 2


def test_on_failure_is_not_called_for_a_success(db: None) -> None:
    chain(tasks.add.s(1), tasks.add.s(), on_failure=tasks.note_failure.s()).defer()
    run_queued()

    assert tasks.failures == []


def test_on_failure_of_the_last_step_and_of_a_permanent_failure(db: None) -> None:
    chain(
        tasks.add.s(1), tasks.permanent.s(), on_failure=tasks.note_failure.s()
    ).defer()
    run_queued(errors="retry")

    assert [one.place for one in tasks.failures] == [1]


def test_a_value_that_cannot_travel_fails_its_step_at_once(anywhere: str) -> None:
    chain(
        tasks.untransportable.s(), tasks.collect.s(), on_failure=tasks.note_failure.s()
    ).defer()
    report = run_queued(errors="retry")

    assert report.calls[tasks.untransportable] == 1  # and no second attempt
    [failure] = tasks.failures
    assert "its value" in failure.error
    assert all(kind != "collect" for kind, *_ in tasks.seen)


def test_a_value_that_is_too_large_fails_its_step_at_once(
    db: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quotas, "PAYLOAD", 50_000)
    chain(
        tasks.blob_unkept.s(60_000), tasks.length.s(), on_failure=tasks.note_failure.s()
    ).defer()
    report = run_queued(errors="retry")

    assert len(report.attempts) == 2
    [failure] = tasks.failures
    assert "60,002 bytes, more than the 50,000" in failure.error


def test_an_atomic_step_whose_value_is_refused_has_no_effect(db: None) -> None:
    chain(tasks.unspeakable_atomically.s(1), tasks.collect.s()).defer()
    run_queued(errors="retry")

    assert Author.objects.count() == 0
    assert FailedTask.objects.count() == 1


class Unreachable:
    """A transport whose server does not answer."""

    def __init__(self, options: Any) -> None:
        pass

    def send(self, message: Any) -> None:
        raise EnqueueUnavailable("no answer")

    def send_many(self, messages: Any) -> list[Any]:
        return [EnqueueUnavailable("no answer") for _ in messages]


def test_what_the_service_does_not_take_waits_in_the_outbox(
    db: None, settings: Any
) -> None:
    """Also if two deliveries of the same call leave it there."""
    backend = {"BACKEND": f"{__name__}.Unreachable"}
    settings.CLOUDTASK = {**settings.CLOUDTASK, "TRANSPORT": backend}
    add: Any = tasks.add.s()
    step = add.step("step 2", is_given=True)
    rest = Rest(chain="c" * 32, place=1, lines=step.lines())
    members = group(tasks.add.s(1), tasks.add.s(2)).parts
    several = GroupStep(tuple(one.step("", is_given=False).lines() for one in members))
    group_rest = Rest(chain="d" * 32, place=1, lines=several.lines())

    for _ in range(2):
        handing.hand_over(rest, b"1")
        handing.hand_over(group_rest, b"null")

    assert OutboxMessage.objects.count() == 3


@pytest.mark.parametrize("verb", ["defer", "adefer", "delay", "apply_async"])
def test_a_signature_alone_says_how_to_defer_it(verb):
    with pytest.raises(AttributeError, match=r"write chain\(<.*add\.s\(\.\.\.\)>\)"):
        getattr(signature(1), verb)()


def signature(*args: int) -> Any:
    """As a caller sees it whom no type checker helps."""
    return tasks.add.s(*args)


def test_a_signature_says_how_to_link_another():
    with pytest.raises(AttributeError, match=r"chain\(<.*\.s\(\.\.\.\)>, \.\.\.\)"):
        signature(1).link(tasks.add.s(2))


def test_a_signature_has_no_other_names_and_can_be_copied():
    with pytest.raises(AttributeError, match=r"has no attribute 'nothing'$"):
        _ = signature(1).nothing
    assert copy.copy(signature(1)).args == (1,)


def test_a_chain_runs_in_a_test_without_a_database() -> None:
    chain(tasks.unkept.s(1), tasks.unkept.s()).defer()

    assert len(run_queued().attempts) == 2
