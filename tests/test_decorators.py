"""Declaring tasks and calling them: what survives, what travels, what is refused."""

from __future__ import annotations

import asyncio
import copy
import functools
import inspect
import pickle
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from cloudtask import Task, call, codec, task
from cloudtask.exceptions import ConfigurationError, EnqueueError
from cloudtask.testing import queued, run_queued
from tests.support import recording
from tests.support.site import Site
from tests.testapp import models, shapes, tasks
from tests.testapp.models import Author, LoudMagazine, Magazine, SpecialMagazine
from tests.testapp.shapes import Shape, Square

CLASS_IS_HIDDEN = sys.version_info >= (3, 13)


@pytest.fixture(autouse=True)
def _nothing_noted() -> None:
    shapes.noted.clear()
    models.noted.clear()


# A task is still its function.


def test_a_plain_call_runs_now_and_queues_nothing() -> None:
    assert tasks.note(1, b=2) == (1,)
    assert tasks.calls == [((1,), {"b": 2})]
    assert queued() == []


def test_signature_name_and_docstring_are_those_of_the_function() -> None:
    signature = inspect.signature(shapes.decorated)
    assert str(signature) == "(a: 'int', b: 'int' = 2) -> 'int'"
    assert shapes.decorated.__name__ == "decorated"
    assert shapes.decorated.__doc__ == "Add."
    assert shapes.decorated.__module__ == "tests.testapp.shapes"
    assert "def note" in inspect.getsource(tasks.note)
    assert inspect.isfunction(tasks.note)
    assert inspect.iscoroutinefunction(tasks.anote)
    assert not inspect.iscoroutinefunction(tasks.note)


def test_a_bound_method_has_the_signature_without_its_subject() -> None:
    unbound, bound = inspect.signature(Shape.draw), inspect.signature(Shape().draw)
    assert list(unbound.parameters) == ["self", "colour", "thick"]
    assert list(bound.parameters) == ["colour", "thick"]
    assert Shape().draw.__doc__ == "Draw it."
    assert list(inspect.signature(Shape.outer_class).parameters) == ["n"]


def test_an_asynchronous_task_is_called_as_any_coroutine_function() -> None:
    assert asyncio.run(Shape(4).adraw("red")) == "red"
    assert shapes.noted == [("adraw", Shape(4), "red")]


def test_a_task_knows_its_path_and_its_options() -> None:
    assert shapes.optioned.path == "tests.testapp.shapes.optioned"
    assert shapes.optioned.options.queue == "mail"
    assert shapes.optioned.options.small is True
    assert tasks.note.options.queue == "default"
    assert "tests.testapp.tasks.note" in repr(tasks.note)
    assert isinstance(tasks.note, Task)


def test_copies_and_pickles_of_a_task_are_the_task_itself() -> None:
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        assert pickle.loads(pickle.dumps(tasks.note, protocol)) is tasks.note
    assert copy.copy(tasks.note) is tasks.note
    assert copy.deepcopy([tasks.note]) == [tasks.note]
    assert codec.loads(codec.dumps(tasks.note)) is tasks.note


def test_a_bound_task_can_be_pickled() -> None:
    bound = pickle.loads(pickle.dumps(Shape(5).draw))
    bound("red")
    pickle.loads(pickle.dumps(Square.outer_class))(1)
    assert shapes.noted == [
        ("draw", Shape(5), "red", False),
        ("outer_class", Square, 1),
    ]


# Calls that travel.


def test_defer_returns_a_receipt() -> None:
    receipt = tasks.note.using(queue="mail", name="mine").defer(1)
    (waiting,) = queued()
    assert (receipt.id, receipt.name, receipt.queue) == (waiting.id, "mine", "mail")


def test_adefer_does_what_defer_does() -> None:
    receipt = asyncio.run(tasks.note.adefer(1, b=2))
    (waiting,) = queued()
    assert (waiting.id, waiting.args, waiting.kwargs) == (receipt.id, (1,), {"b": 2})


def test_using_leaves_the_task_as_it_was() -> None:
    tasks.note.using(queue="mail")
    tasks.note.defer()
    assert queued()[0].queue == "default"


def test_using_adds_to_the_options_before_it() -> None:
    shapes.optioned.using(max_attempts=9).using(queue="slow").defer(1)
    (waiting,) = queued()
    assert (waiting.queue, waiting.options.max_attempts) == ("slow", 9)
    assert waiting.options.small is True


def test_defer_many_takes_captured_calls_in_order() -> None:
    receipts = tasks.note.defer_many(call(n, b=n) for n in range(5))
    assert [r.id for r in receipts] == [w.id for w in queued()]
    run_queued()
    assert tasks.calls == [((n,), {"b": n}) for n in range(5)]
    assert tasks.note.defer_many([]) == []


@pytest.mark.parametrize("wrong", [7, (7,), {"a": 7}])
def test_defer_many_names_what_it_takes_for_a_call(wrong: Any) -> None:
    with pytest.raises(
        TypeError, match=r"takes cloudtask\.call\(\.\.\.\) .* not \w+\.$"
    ):
        tasks.note.defer_many([call(1), wrong])
    assert not queued()


def test_defer_many_sends_nothing_when_a_call_is_wrong() -> None:
    with pytest.raises(TypeError):
        tasks.add_author.defer_many([call("a"), call()])
    with pytest.raises(TypeError):
        tasks.note.defer_many([call(1), call(object())])
    assert queued() == []


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        (call(), "missing a required argument: 'name'"),
        (call(object()), r"args\[0\]: object can't travel"),
        (call("x" * 200_000), "was refused: its arguments take"),
    ],
)
def test_defer_many_names_the_task_and_the_place_of_a_call_that_is_wrong(
    wrong: Any, text: str
) -> None:
    small = tasks.add_author.using(small=True)
    with pytest.raises(
        (TypeError, EnqueueError),
        match=rf"^calls\[2\] of {tasks.add_author.path}: .*{text}",
    ):
        small.defer_many([call("a"), call("b"), wrong])


def test_a_misspelt_keyword_is_told_the_nearest() -> None:
    with pytest.raises(
        TypeError, match=rf"{tasks.add_author.path}.* 'nmae'; did you mean 'name'\?$"
    ):
        tasks.add_author.defer(nmae="a")


def test_a_bound_task_takes_many_calls_and_options() -> None:
    Shape(4).draw.using(queue="mail").defer_many([call("red"), call("blue")])
    assert {w.queue for w in queued()} == {"mail"}
    run_queued()
    assert [note[2] for note in shapes.noted] == ["red", "blue"]


def test_what_a_call_carries_is_taken_at_defer() -> None:
    value = [1]
    tasks.note.defer(value)
    value.append(2)
    run_queued()
    assert tasks.calls == [(([1],), {})]


def test_a_decorated_function_keeps_its_decorator() -> None:
    shapes.decorated.defer(1, b=5)
    run_queued()
    assert shapes.noted == ["wrapped", (1, 5)]


def test_a_decorator_may_hide_that_a_task_is_asynchronous() -> None:
    shapes.adecorated.defer(1)
    run_queued()
    assert shapes.noted == ["wrapped", ("async", 1)]


def test_a_wrong_arity_is_a_type_error_at_the_call_that_names_the_task() -> None:
    wrong: list[Callable[[], Any]] = [
        lambda: tasks.add_author.defer(),
        lambda: tasks.add_author.defer("a", "b"),
        lambda: tasks.add_author.using(queue="mail").defer(nam="a"),
        lambda: Shape().draw.defer(),
        lambda: Shape().draw.defer("red", "thick"),
        lambda: Shape.outer_class.defer(),
        lambda: Shape.outer_static.defer(),
        lambda: asyncio.run(tasks.add_author.adefer()),
    ]
    for attempt in wrong:
        with pytest.raises(TypeError, match=r"tests\.testapp\..*\("):
            attempt()
    assert queued() == []


# Subjects.


def test_a_dataclass_instance_travels_as_its_methods_subject() -> None:
    Shape(5).draw.defer("red", thick=True)
    Shape.draw.defer(Shape(6), "blue")
    Square(4).draw.defer("green")
    run_queued()
    assert shapes.noted == [
        ("draw", Shape(5), "red", True),
        ("draw", Shape(6), "blue", False),
        ("draw", Square(4), "green", False),
    ]


@pytest.mark.parametrize("through", [Shape, Shape(4), Square, Square(4)])
def test_a_class_method_gets_the_class_it_was_reached_through(through: Any) -> None:
    kind = through if isinstance(through, type) else type(through)
    through.outer_class.defer(1)
    through.outer_class.using(queue="mail").defer(2)
    run_queued()
    assert shapes.noted == [("outer_class", kind, 1), ("outer_class", kind, 2)]
    assert through.outer_class(3) is kind


@pytest.mark.skipif(CLASS_IS_HIDDEN, reason="classmethod() hides the class from 3.13")
@pytest.mark.parametrize("through", [Shape, Shape(4), Square])
def test_a_class_method_may_have_its_task_below(through: Any) -> None:
    kind = through if isinstance(through, type) else type(through)
    through.inner_class.defer(1)
    run_queued()
    assert shapes.noted == [("inner_class", kind, 1)]


@pytest.mark.skipif(not CLASS_IS_HIDDEN, reason="classmethod() shows the class so far")
@pytest.mark.parametrize("args", [(), (1,), (Shape, 1)])
def test_a_class_method_with_its_task_below_says_what_to_write(args: Any) -> None:
    assert Shape.inner_class(1) is Shape
    with pytest.raises(ConfigurationError, match="@task above @classmethod"):
        Shape.inner_class.defer(*args)


@pytest.mark.parametrize("name", ["outer_static", "inner_static"])
def test_a_static_method_has_no_subject(name: str, db: None) -> None:
    author = Author.objects.create(name="before")
    for through in (Shape, Shape(4), Square):
        getattr(through, name).defer(author)
    Author.objects.update(name="after")
    run_queued()
    assert [value.name for _, value in shapes.noted] == ["before"] * 3


def test_a_saved_instance_is_read_again_when_its_method_runs(db: None) -> None:
    magazine = Magazine.objects.create(title="before")
    magazine.shout.defer(mark="?")
    Magazine.objects.update(title="after")
    run_queued()
    assert models.noted == [(Magazine, magazine.pk, "after", "?")]


def test_an_unsaved_instance_travels_as_it_is(db: None) -> None:
    Magazine(title="draft").shout.defer()
    run_queued()
    assert models.noted == [(Magazine, None, "draft", "!")]
    assert not Magazine.objects.exists()


def test_an_instance_with_a_key_of_its_own_that_is_not_saved_travels_as_it_is(
    db: None,
) -> None:
    Magazine(pk=17, title="draft").shout.defer()
    run_queued()
    assert models.noted == [(Magazine, 17, "draft", "!")]


@pytest.mark.django_db(databases=["default", "other"])
def test_an_instance_is_read_from_the_database_it_came_from() -> None:
    Magazine.objects.create(pk=1, title="here")
    there = Magazine.objects.using("other").create(pk=1, title="there")
    there.shout.defer()
    run_queued()
    assert models.noted == [(Magazine, 1, "there", "!")]


def test_proxies_and_inherited_models_keep_their_class(db: None) -> None:
    proxy = LoudMagazine.objects.create(title="proxy")
    special = SpecialMagazine.objects.create(title="special", issue=3)
    proxy.shout.defer()
    special.shout.defer()
    run_queued()
    assert [(kind, title) for kind, _, title, _ in models.noted] == [
        (LoudMagazine, "proxy"),
        (SpecialMagazine, "special"),
    ]


def test_a_subject_may_be_given_by_its_name() -> None:
    Shape.draw.defer(self=Shape(8), colour="red")
    asyncio.run(Shape.draw.using(queue="mail").adefer(self=Shape(9), colour="blue"))
    run_queued()
    assert [note[1] for note in shapes.noted] == [Shape(8), Shape(9)]


def test_a_class_method_of_a_model_gets_its_class() -> None:
    Magazine.count.defer(2)
    LoudMagazine.count.defer(3)
    run_queued()
    assert models.noted == [(Magazine, 2), (LoudMagazine, 3)]


def test_an_asynchronous_method_of_a_model_runs(db: None) -> None:
    Magazine.objects.create(title="quiet").ashout.defer()
    run_queued()
    assert models.noted == [(Magazine, "quiet", "async")]


def test_a_row_that_is_gone_fails_the_attempt(db: None) -> None:
    magazine = Magazine.objects.create(title="gone")
    magazine.shout.defer()
    magazine.delete()
    with pytest.raises(Magazine.DoesNotExist):
        run_queued()
    assert models.noted == []


def test_a_deferred_field_is_no_obstacle_for_a_subject(db: None) -> None:
    Magazine.objects.create(title="lazy")
    Magazine.objects.defer("title").get().shout.defer()
    run_queued()
    assert models.noted[0][2] == "lazy"


def test_what_is_no_value_cannot_be_a_subject() -> None:
    class Opaque(Shape):
        __slots__ = ("x",)

    with pytest.raises(TypeError, match=r"args\[0\]"):
        Opaque().draw.defer("red")


# Declarations that are refused.


def local() -> None: ...


def generator() -> Iterator[int]:
    yield 1


async def agenerator() -> Any:
    yield 1


class Caller:
    def __call__(self) -> None: ...


def inside() -> Any:
    def closure() -> None: ...

    return closure


def class_inside() -> Any:
    class Local:
        def method(self) -> None: ...

    return Local.method


REFUSED = {
    "a lambda": (lambda: None, "lambda.*Use `def`"),
    "a closure": (inside(), "inside a function.*module level"),
    "a method of a local class": (class_inside(), "inside a function"),
    "a generator": (generator, "generator"),
    "an asynchronous generator": (agenerator, "generator"),
    "a class": (Shape, "takes a function"),
    "a bound method": (Shape().__eq__, "takes a function"),
    "a callable object": (Caller(), "no name of its own"),
    "a partial": (functools.partial(local), "no name of its own"),
    "a string": ("local", "takes a function"),
    "a number": (5, "takes a function"),
    "a task": (tasks.note, "a task already"),
    "a property": (property(local), "takes a function"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_what_a_worker_could_not_import_is_refused_with_the_reason(kind: str) -> None:
    given, reason = REFUSED[kind]
    for declare in (task, task(queue="mail")):
        with pytest.raises(ConfigurationError, match=reason):
            declare(given)


def test_a_script_has_no_tasks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "__module__", "__main__")
    with pytest.raises(ConfigurationError, match=r"script.*tasks\.py"):
        task(local)


def test_a_message_of_a_bound_task_names_the_method(site: Site) -> None:
    Shape(7).draw.defer("red")
    assert recording.sent[0].task == "tests.testapp.shapes.Shape.draw"
    assert site.deliver().status_code == 200
    assert shapes.noted == [("draw", Shape(7), "red", False)]


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("schedul", "did you mean 'schedule'?"),
        ("retries", "write max_attempts=..., which also counts the first attempt."),
        ("max_retries", "write max_attempts=..."),
        ("soft_time_limit", "write timeout=..."),
        ("default_retry_delay", "write backoff="),
        ("ignore_result", "a result is dropped unless you write keep_result="),
        ("rate_limit", "set the rate of its queue in CLOUDTASK['QUEUES']."),
    ],
)
def test_an_unknown_option_is_told_what_to_write(name: str, told: str) -> None:
    with pytest.raises(TypeError) as raised:
        task(**{name: 3})  # type: ignore[call-overload]
    assert str(raised.value).startswith(f"@task has no option {name!r}; {told}")


def test_an_option_of_nobody_is_told_those_of_this_very_call() -> None:
    with pytest.raises(TypeError, match="known are ") as of_task:
        task(xyz=3)  # type: ignore[call-overload]
    with pytest.raises(TypeError, match="known are ") as of_using:
        tasks.add_author.using(xyz=3)  # type: ignore[call-arg]
    assert "schedule," in str(of_task.value)
    assert "countdown," not in str(of_task.value)
    assert "countdown," in str(of_using.value)
    assert "schedule," not in str(of_using.value)
