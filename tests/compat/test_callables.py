"""Any importable callable of a trusted module can be deferred, and no other."""

from __future__ import annotations

import functools
import logging
import math
import operator
import os
import subprocess
import sys
from dataclasses import dataclass
from importlib import import_module
from threading import Event

import pytest
from django.core.mail import send_mail
from django.core.management import call_command
from django.test import override_settings

from cloudtask import callables, deferred, registry, runtime
from cloudtask.deferred import defer
from cloudtask.exceptions import PayloadError, TaskNotFound, UnsupportedValue
from cloudtask.options import Options
from cloudtask.testing import queued, run_queued
from tests.compat import things
from tests.support import clock
from tests.testapp import tasks
from tests.testapp.models import Author, Book
from tests.testapp.tasks import calls

greeter = things.Greeter("Hello")


@dataclass
class Unknown:
    """A class of no installed app: see `__module__`."""

    x: int


Unknown.__module__ = "tests.elsewhere"


BORROWER = "tests.compat.things:Borrower"
KEPT = ("run", "start", "process", "imported", "bound", "looked", "own", "__class__")
NO_METHODS = (
    "__class__",
    "__dict__",
    "__doc__",
    "__module__",
    "objects",
    "_meta",
    "pk",
)


def named(value):
    """The same in every process, as pytest-xdist wants it: no addresses."""
    return getattr(value, "__qualname__", None) or type(value).__name__


@pytest.mark.parametrize(
    ("obj", "args", "expected"),
    [
        (things.note, (1,), ((1,), {})),
        (things.anote, (1,), ("async", 1)),
        (things.decorated, (2,), ("given", 2)),
        (things.remembered, (3,), ("remembered", 3)),
        (things.replaced, (4,), ((4,), {})),
        (things.Greeter.Inner, (5,), ("made", 5)),
        (things.Greeter.of_class, ("Ann",), ("Greeter", "Ann")),
        (things.LoudGreeter.of_class, ("Ann",), ("LoudGreeter", "Ann")),
        (greeter.of_class, ("Ann",), ("Greeter", "Ann")),
        (things.Greeter.of_nobody, ("Ann",), ("nobody", "Ann")),
        (greeter.of_nobody, ("Ann",), ("nobody", "Ann")),
        (greeter.greet, ("Ann",), "Hello, Ann"),
        (greeter.whisperer(), ("Ann",), "psst, Ann"),
        (greeter, ("Ann",), "Hello called Ann"),
        (things.Slotted("word").say, (), "word"),
        (things.Shelf("fiction", [1, 2]).show, (), ("fiction", [1, 2])),
        (things.Register(a=1).show, (), {"a": 1}),
        (things.Point(x=1, y=2).show, (), (1, 2)),
        (things.Order(7).ship, (), ("shipped", 7)),
        (things.Recipe("Hi").greet, (), "Hi"),
        (functools.partial(things.two, 1), (2,), (1, 2)),
        (functools.partial(things.two, b=2), (1,), (1, 2)),
        (functools.partial(greeter.greet, "Ann"), (), "Hello, Ann"),
    ],
    ids=named,
)
def test_it_is_called_where_it_runs(obj, args, expected):
    defer(obj, *args)
    run_queued()
    assert calls == [expected]


@pytest.mark.parametrize(
    "obj",
    [
        *(os.system, os.path.join, subprocess.Popen, subprocess.run, eval, print, len),
        *(str.upper, "a-b".split, [].append, (5).__add__, dict.fromkeys, math.sqrt),
        *(operator.attrgetter("a"), operator.itemgetter(1), import_module),
        *(functools.partial(os.system, "true"), functools.partial(print)),
        *(call_command, send_mail, logging.getLogger("x").error, Event().set),
    ],
    ids=named,
)
def test_what_is_of_another_package_is_refused_with_the_setting_to_add(obj):
    with pytest.raises(UnsupportedValue, match=r'add .+ to CLOUDTASK\["TRUSTED_MOD'):
        defer(obj, 1)
    assert queued() == []


@pytest.mark.parametrize(
    "form",
    [
        *("os:system", "posix:system", "subprocess:Popen", "builtins:eval"),
        *("tests.compat.things:os.system", "tests.compat.things:functools.partial"),
        *("tests.compat.things:Greeter.__init__.x"),
        *("tests.compat.things:calls.append", "", ":", "os", "cloudtask"),
        *("tests.compat.things:Borrower.run", "tests.compat.things:Borrower.start"),
        *("tests.compat.things:Borrower.process", "tests.compat.things:Borrower.bound"),
        "tests.compat.things:Borrower.process.wait",
        *(
            "tests.compat.things:Borrower.imported",
            "tests.compat.things:Borrower.looked",
        ),
        *("tests.compat.things:Greeter.mro", "tests.compat.things:Greeter.__class__"),
        "tests.compat.things:Greeter.__class__.__subclasses__",
        "tests.compat.things:Greeter.__subclasses__",
        *("tests.compat.things:os", "tests.compat.things:os.system"),
        "tests.compat.things:Greeter.\u0261reet",
        *("tests.compat.thingsx:note", "tests.compat.things.:note", ".things:note"),
        *("tests.compat..things:note", "tests.compat.things:note:note"),
        *("tests.compat.things:..note", "tests/compat/things:note"),
        "tests.c\u043empat.things:note",
        *(["method", ["value", Author()], name] for name in NO_METHODS),
        *(["method", ["object", BORROWER, [], {}, {}, None, None], n] for n in KEPT),
        *(["method", ["manager", Author, "objects"], name] for name in NO_METHODS),
        ["partial", "os:system", ["true"], {}],
        ["partial", ["partial", "os:system", [], {}], [], {}],
        ["made", "os:system", ["true"], None, None, None],
        ["made", "tests.compat.things:os.system", ["true"], None, None, None],
        ["object", "subprocess:Popen", ["true"], {}, None, None, None],
        ["object", "tests.compat.things:note", [], {}, None, None, None],
        ["value", 5],
        ["value", os.PathLike],
        ["method", ["value", "a"], "upper"],
        ["method", ["value", [1]], "append"],
        ["method", "os:system", "__call__"],
        ["method", "tests.compat.things:note", "__globals__"],
        ["method", ["method", ["value", Author()], "save"], "__func__"],
        ["manager", Author, "_meta"],
        ["manager", os.PathLike, "objects"],
        ["eval", "1"],
        [["partial"], "os:system"],
        [],
        None,
    ],
    ids=str,
)
def test_a_worker_calls_no_other_either_whoever_signed_it(form):
    with pytest.raises((PayloadError, TaskNotFound)):
        callables.resolve(form)


@pytest.mark.parametrize("module", ["tests.golden.__main__", "tests.calls.__main__"])
def test_a_program_is_not_imported(module):
    """To import it would be to run it."""
    with override_settings(CLOUDTASK={"TRUSTED_MODULES": ["tests"]}):
        with pytest.raises(PayloadError, match="TRUSTED_MODULES"):
            callables.resolve(f"{module}:main")
        with pytest.raises(TaskNotFound):
            registry.find(f"{module}.main")
    assert module not in sys.modules


def test_a_module_beside_a_trusted_one_is_not_trusted():
    listed = ["tests.support.cloc", "tests.support.clock.now", "tests.suppor", ""]
    with override_settings(CLOUDTASK={"TRUSTED_MODULES": listed}):
        with pytest.raises(PayloadError, match="TRUSTED_MODULES"):
            callables.resolve("tests.support.clock:move")
        with pytest.raises(UnsupportedValue, match="TRUSTED_MODULES"):
            defer(clock.move, 1)


def test_a_sealed_call_of_another_package_is_a_failure(caplog):
    runtime.enqueue(deferred.run._parts()[0], Options(), ("os:getpid",), {})
    with pytest.raises(PayloadError, match="TRUSTED_MODULES"):
        run_queued()


def test_arguments_are_the_codec_s_and_need_a_class_that_is_trusted():
    with pytest.raises(UnsupportedValue, match="TRUSTED_MODULES"):
        defer(things.note, Unknown(1))


@pytest.mark.parametrize(
    ("obj", "args", "expected"),
    [
        (len, ([1, 2],), 2),
        (int, ("7",), 7),
        (math.sqrt, (4,), 2.0),
        (operator.add, (1, 2), 3),
        (dict.fromkeys, (["a"],), {"a": None}),
        (str.upper, ("a",), "A"),
        ("a-b".split, ("-",), ["a", "b"]),
        ((5).__add__, (1,), 6),
        (print, (), None),
    ],
    ids=named,
)
def test_a_setting_allows_builtins_and_other_packages(obj, args, expected):
    listed = ["builtins", "math", "_operator"]
    with override_settings(CLOUDTASK={"TRUSTED_MODULES": listed}):
        defer(obj, *args)
        assert [ran.value for ran in run_queued().attempts] == [expected]


def test_an_import_path_travels_and_no_code():
    defer(things.note, 1)
    (call,) = queued()
    assert (call.task, call.args) == ("tests.compat.things.note", (1,))
    assert call.lead == "tests.compat.things:note"


def test_a_method_of_a_model_instance_is_called_on_its_snapshot(db):
    author = Author.objects.create(name="Ann")
    book = Book(title="Old", author=author)
    book.save()
    book.title = "As it was when it was deferred"
    defer(book.save)
    Book.objects.update(title="New")
    run_queued()
    assert Book.objects.get().title == "As it was when it was deferred"


def test_a_method_of_a_manager_can_be_deferred(db):
    defer(Author.objects.create, name="Ann")
    run_queued()
    assert Author.objects.get().name == "Ann"


def test_a_method_of_a_queryset_can_be_deferred(db):
    Author.objects.create(name="Ann")
    Author.objects.create(name="Bob")
    defer(Author.objects.filter(name="Ann").delete)
    run_queued()
    assert Author.objects.get().name == "Bob"


def test_a_model_can_be_deferred_and_makes_an_instance(db):
    defer(Author, name="Ann")
    assert run_queued().attempts[0].value.name == "Ann"


def test_a_task_is_deferred_as_itself_with_its_own_options():
    defer(tasks.small_note, 1)
    (call,) = queued()
    assert call.task == tasks.small_note.path
    assert call.options.small
    run_queued()
    assert calls == [("small", 1)]


def test_options_of_a_call_go_before_those_of_a_task():
    defer(tasks.note.using(queue="mail"), 1, _queue="slow", _small_task=True)
    (call,) = queued()
    assert (call.queue, call.options.small) == ("slow", True)


@pytest.mark.parametrize(
    ("obj", "said"),
    [
        (things.nameless, "lambda"),
        (things.closure(1), "inside a function"),
        (things.before_it_was_replaced, "not what stands at"),
        (things.Hidden, "not to be found|not what stands"),
        (things.Hidden(), "not to be found|not what stands"),
        (things.solitary, "name alone"),
        (things.Unmovable(), "not me"),
        (functools.partial(things.nameless), "lambda"),
    ],
    ids=named,
)
def test_what_a_worker_could_not_find_is_refused(obj, said):
    with pytest.raises(UnsupportedValue, match=said):
        defer(obj)
    assert queued() == []


def test_a_function_of_the_script_that_runs_is_refused():
    def main():
        pass

    main.__qualname__, main.__module__ = "main", "__main__"
    with pytest.raises(UnsupportedValue, match="module that a worker can import"):
        defer(main)


def test_a_method_under_another_name_is_refused():
    other = things.Greeter("Hi")
    other.greet = things.Greeter("Other").greet
    method = things.Greeter.greet.__get__(other)
    with pytest.raises(UnsupportedValue, match="another name"):
        defer(method, "Ann")


def test_a_method_of_an_object_with_a_lock_is_refused_by_name():
    import threading

    locked = things.Greeter(threading.Lock())
    with pytest.raises(UnsupportedValue, match="lock"):
        defer(locked.greet, "Ann")


@pytest.mark.parametrize("obj", [None, 5, "tests.compat.things.note", [1]], ids=named)
def test_what_can_not_be_called_is_refused(obj):
    with pytest.raises(ValueError, match="something to call"):
        defer(obj)


@pytest.mark.parametrize(
    ("obj", "args", "kwargs"),
    [
        (things.two, (1,), {}),
        (things.two, (1, 2, 3), {}),
        (things.two, (1, 2), {"_countdwon": 3}),
        (greeter.greet, (), {}),
        (greeter, (1, 2), {}),
        (things.Greeter.Inner, (), {}),
    ],
    ids=named,
)
def test_arguments_that_it_does_not_take_are_refused_at_once(obj, args, kwargs):
    with pytest.raises(TypeError):
        defer(obj, *args, **kwargs)
    assert queued() == []


def test_keywords_may_have_any_name():
    defer(things.note, obj=1, subject=2, self=3, forms=4)
    run_queued()
    assert calls == [((), {"obj": 1, "subject": 2, "self": 3, "forms": 4})]


def test_a_callable_that_is_gone_is_tried_again_and_not_dropped():
    with pytest.raises(TaskNotFound, match=r"things\.gone"):
        callables.resolve("tests.compat.things:gone")
    with pytest.raises(TaskNotFound, match="nowhere"):
        callables.resolve("tests.compat.nowhere:gone")


def test_what_stands_at_the_path_when_it_runs_is_called(monkeypatch):
    defer(things.note, 1)
    monkeypatch.setattr(things, "note", lambda value: calls.append(("new", value)))
    run_queued()
    assert calls == [("new", 1)]
