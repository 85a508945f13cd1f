"""What can be a member or a step: calls of django.tasks and of plain functions, too;
and the queue and the database of a whole."""

from __future__ import annotations

from typing import Any

import pytest

from cloudtask import chain, deferred, group
from cloudtask.exceptions import QueueNotFound, UnsupportedValue
from cloudtask.models import OutboxMessage
from cloudtask.testing import queued, run_queued
from tests.backend import tasks as tasks_of_django
from tests.workflows import tasks

theirs: Any = tasks_of_django  # type checkers see the class of Django


@pytest.fixture(autouse=True)
def _trusted_here(settings: Any) -> None:
    modules = ["tests.workflows", "tests.backend"]
    settings.CLOUDTASK = {"TRUSTED_MODULES": modules}


def double(value: int, more: int = 0) -> int:
    return 2 * value + more


# Callables that are no tasks


def test_functions_are_steps_and_members(db: None) -> None:
    steps = chain(
        deferred.s(double, 3),
        deferred.s(double, more=1),
        group(deferred.s(double), deferred.si(double, 1), tasks.give.s()),
        tasks.collect.s(),
    )
    receipt = steps.defer()
    run_queued()

    assert receipt.result() == [26, 2, 13]


def test_a_task_is_taken_as_such(db: None) -> None:
    receipt = chain(deferred.s(tasks.add, 1), deferred.s(tasks.add, 5)).defer()
    run_queued()

    assert receipt.result() == 7


def test_options_of_a_function_are_those_of_defer(db: None) -> None:
    group(deferred.s(double, 1, _queue="mail", _countdown=60)).defer()

    [call] = queued()
    assert call.queue == "mail"
    assert call.eta is not None


@pytest.mark.parametrize(
    "steps",
    [
        lambda: chain(deferred.s(double)),
        lambda: chain(deferred.s(double, 1), deferred.s(double, 1, 2)),
        lambda: chain(deferred.si(double, 1), deferred.si(double)),
    ],
)
def test_arguments_of_a_function_are_checked_with_the_whole(steps: Any) -> None:
    with pytest.raises(TypeError, match="step"):
        steps().defer()
    assert queued() == []


def test_a_function_that_no_worker_can_import_is_refused() -> None:
    with pytest.raises((UnsupportedValue, ValueError)):
        deferred.s(lambda value: value)


def test_a_plain_function_is_told_what_to_write() -> None:
    with pytest.raises(TypeError, match=r"deferred\.s\(function"):
        chain(double)  # type: ignore[call-overload]


# Tasks of django.tasks


def test_tasks_of_django_are_steps_and_members(db: None) -> None:
    steps = chain(
        tasks.give.s(2),
        theirs.add.s(3),
        group(theirs.add.s(), theirs.add.si(1), tasks.add.s()),
        tasks.collect.s(),
    )
    receipt = steps.defer()
    run_queued()

    assert receipt.result() == [6, 2, 6]


def test_a_task_of_django_that_keeps_results_has_one_for_its_step(db: None) -> None:
    receipt = chain(tasks.give.s(2), theirs.keep.s(), tasks.collect.s()).defer()
    report = run_queued()

    assert receipt.result() == theirs.keep.func(2)
    [ran] = [one for one in report.attempts if one.task.endswith("keep")]
    found = theirs.keep.get_result(ran.id)
    assert found.return_value == theirs.keep.func(2)


def test_a_task_of_django_takes_its_context_first(db: None) -> None:
    chain(tasks.give.s(2), theirs.see.s()).defer()
    assert len(run_queued().ran) == 2


def test_arguments_of_a_task_of_django_must_be_json(db: None) -> None:
    with pytest.raises(TypeError):
        theirs.add.s(object())


def test_options_of_a_task_of_django_travel(db: None) -> None:
    group(theirs.mail.s("x")).defer()
    [call] = queued()
    assert call.queue == "mail"


@pytest.mark.parametrize("task", [theirs.add, theirs.declared_elsewhere])
def test_a_bare_task_of_django_is_told_what_to_write(task: Any) -> None:
    with pytest.raises(TypeError, match=r"s\(\.\.\.\) .* needs a CloudTasksBackend"):
        group(task)


# The queue and the database of a whole


def queues() -> list[str]:
    return [call.queue for call in queued()]


def queues_of_all() -> list[str]:
    seen: list[str] = []
    while found := queues():
        seen += found
        run_queued(recursive=False)
    return seen


def test_a_queue_is_that_of_all_calls_that_chose_none(db: None) -> None:
    steps = chain(
        tasks.give.s(1),
        group(tasks.add.s(), tasks.add.using(queue="own").s(), group(tasks.add.s())),
        tasks.collect.s(),
    ).using(queue="bulk")
    steps.defer()

    assert sorted(queues_of_all()) == ["bulk"] * 4 + ["own"]


def test_an_inner_choice_goes_before_an_outer_one(db: None) -> None:
    inner = chain(tasks.give.s(1), tasks.add.s()).using(queue="inner")
    chain(inner, tasks.add.s()).using(queue="outer").defer()

    assert queues_of_all() == ["inner", "inner", "outer"]


def test_then_has_no_part_in_the_queue_of_its_group(db: None) -> None:
    members = group(tasks.give.s(n) for n in range(2)).using(queue="bulk")
    members.then(tasks.collect.s()).defer()

    assert queues_of_all() == ["bulk", "bulk", "default"]


@pytest.mark.django_db(databases="__all__")
def test_a_database_is_that_of_all_calls() -> None:
    members = group(tasks.add.s(n) for n in range(3))
    members.using(database="other").then(tasks.total.s()).defer()

    assert OutboxMessage.objects.count() == 0
    assert OutboxMessage.objects.using("other").count() == 3
    run_queued()


def test_an_unknown_queue_is_refused(settings: Any) -> None:
    settings.CLOUDTASK = {"QUEUES": {"default": {}}}
    with pytest.raises(QueueNotFound, match="no such queue"):
        chain(tasks.give.s(1)).using(queue="bulk").defer()
