"""Our options, through `using()`, the decorator and OPTIONS; system checks."""

from __future__ import annotations

from datetime import timedelta

import django
import pytest

from cloudtask import registry
from cloudtask.backend.library import InvalidTask, task, task_backends
from cloudtask.exceptions import ConfigurationError, DuplicateTask, PayloadTooLarge
from cloudtask.testing import queued, run_queued
from tests.backend import tasks
from tests.testapp.tasks import calls

BACKEND = "cloudtask.backend.CloudTasksBackend"
# Django 6.0 is the one version that does not hand them on.
DECORATOR_TAKES_OPTIONS = django.VERSION[:2] != (6, 0)


def on_the_wire(name):
    return getattr(queued()[0].options, name)


@pytest.mark.parametrize(
    ("option", "value", "expected"),
    [
        ("max_attempts", 3, 3),
        ("timeout", 60, timedelta(seconds=60)),
        ("small", True, True),
        ("service", "worker", "worker"),
        ("version", "v2", "v2"),
        ("instance", "i1", "i1"),
        ("url", "/elsewhere/", "/elsewhere/"),
        ("headers", {"X-Key": "1"}, {"X-Key": "1"}),
    ],
)
def test_using_takes_our_options(option, value, expected):
    tasks.note.using(**{option: value}).enqueue()
    assert on_the_wire(option) == expected


def test_what_using_said_stays_when_using_is_called_again():
    tasks.note.using(max_attempts=3).using(queue_name="mail").enqueue()
    assert (on_the_wire("max_attempts"), queued()[0].queue) == (3, "mail")


def test_using_does_not_change_the_task_it_is_called_on():
    tasks.note.using(max_attempts=3)
    tasks.note.enqueue()
    assert on_the_wire("max_attempts") is None


def test_an_unknown_option_names_the_nearest_one():
    with pytest.raises(TypeError, match="max_attempts"):
        tasks.note.using(max_attempt=3)


def test_a_wrong_value_makes_the_task_invalid():
    with pytest.raises(InvalidTask, match="max_attempts"):
        tasks.note.using(max_attempts=0)


def test_a_name_can_be_used_once():
    tasks.note.using(name="once").enqueue()
    with pytest.raises(DuplicateTask):
        tasks.note.using(name="once").enqueue()


def test_a_small_task_has_a_limit():
    with pytest.raises(PayloadTooLarge):
        tasks.note.using(small=True).enqueue("x" * 200_000)


def test_of_a_unique_task_one_call_waits(db):
    first = tasks.note.using(unique=True).enqueue(1)
    again = tasks.note.using(unique=True, queue_name="mail").enqueue(1)
    other = tasks.note.using(unique=True).enqueue(2)
    assert first.id == again.id != other.id
    assert len(queued()) == 2


def first_letter(word):
    return word[0]


def test_unique_may_be_a_function_of_the_arguments(db):
    job = tasks.mail.using(unique=first_letter)
    assert job.enqueue("ann").id == job.enqueue("alf").id != job.enqueue("bob").id


def decorated(function, **options):
    return task(**options)(function)


def test_the_decorator_takes_our_options_where_django_hands_them_on():
    if not DECORATOR_TAKES_OPTIONS:
        with pytest.raises(TypeError, match="max_attempts"):
            decorated(tasks.note.func, max_attempts=4)
        return
    decorated(tasks.note.func, max_attempts=4, timeout=30).enqueue()
    assert (on_the_wire("max_attempts"), on_the_wire("timeout").seconds) == (4, 30)


def test_the_decorator_refuses_an_unknown_option():
    with pytest.raises(TypeError, match="max_attempt"):
        decorated(tasks.note.func, max_attempt=4)


class TestOptionsOfTheBackend:
    @pytest.fixture
    def configure(self, settings):
        def configure(**options):
            settings.TASKS = {"default": {"BACKEND": BACKEND, "OPTIONS": options}}

        return configure

    def test_they_hold_for_all_its_tasks(self, configure):
        configure(max_attempts=7, service="worker")
        tasks.note.enqueue()
        assert (on_the_wire("max_attempts"), on_the_wire("service")) == (7, "worker")

    def test_using_goes_before_them(self, configure):
        configure(small=True, max_attempts=7)
        tasks.note.using(small=False).enqueue()
        assert on_the_wire("small") is False
        assert on_the_wire("max_attempts") == 7

    @pytest.mark.parametrize(
        ("options", "said"),
        [
            ({"max_attempt": 3}, "max_attempts"),
            ({"queue": "mail"}, "queue_name"),
            ({"eta": None}, "run_after"),
            ({"name": "x"}, "one call"),
            ({"max_attempts": "3"}, "max_attempts"),
            ({"results": "nowhere"}, "alias of a database"),
            ({"priority_queues": ["high"]}, "dict"),
            ({"priority_queues": {0: "x"}}, "whole number"),
            ({"priority_queues": {101: "x"}}, "whole number"),
            ({"priority_queues": {1: None}}, "id of a queue"),
        ],
    )
    def test_a_wrong_one_is_an_error_of_the_check(self, configure, options, said):
        configure(**options)
        problem = problems()["cloudtask.E101"]
        assert said in problem
        with pytest.raises(ConfigurationError, match="TASKS"):
            _ = task_backends["default"].settings  # type: ignore[attr-defined]

    def test_options_that_are_no_dict_are_an_error_of_the_check(self, settings):
        settings.TASKS = {"default": {"BACKEND": BACKEND, "OPTIONS": [1]}}
        assert "dict" in problems()["cloudtask.E101"]

    def test_a_queue_that_is_not_declared_is_an_error_of_the_check(self, settings):
        settings.CLOUDTASK = {"QUEUES": {"default": {}, "mail": {}}}
        settings.TASKS = {"default": {"BACKEND": BACKEND, "QUEUES": ["mail", "mails"]}}
        assert "'mails'" in problems()["cloudtask.E102"]

    def test_a_queue_for_a_priority_must_be_declared_as_well(self, settings, configure):
        settings.CLOUDTASK = {"QUEUES": {"default": {}}}
        configure(priority_queues={1: "{queue}-soon"})
        assert "'default-soon'" in problems()["cloudtask.E102"]

    def test_right_settings_pass(self):
        assert problems() == {}


def found():
    """The method that the library's check calls on every backend."""
    return [problem for backend in task_backends.all() for problem in backend.check()]


def problems():
    return {problem.id: problem.msg for problem in found()}


def test_a_task_declared_for_another_backend_is_found_by_the_worker(settings):
    settings.CLOUDTASK = {"TRUSTED_MODULES": ["tests.backend"]}
    tasks.declared_elsewhere.using(backend="default").enqueue(1)
    # As in a process that has imported the module, but enqueued nothing.
    definition = registry._known.pop("tests.backend.tasks.declared_elsewhere")
    try:
        run_queued()
    finally:
        registry._known.setdefault(definition.path, definition)
    assert calls == [1]
