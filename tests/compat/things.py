"""Importable callables of every kind that are deferred; none of them is a task.

This module is in no installed app and under no trusted prefix.
"""

from __future__ import annotations

import functools
import importlib
import os
import subprocess
from dataclasses import dataclass

from cloudtask import current, environment
from cloudtask.deferred import (
    PermanentTaskFailure,
    SingularTaskFailure,
    TimeoutException,
    defer,
    get_deferred_shard_index,
)
from tests.support import clock
from tests.testapp.models import Author, Book
from tests.testapp.tasks import calls


def note(*args, **kwargs):
    calls.append((args, kwargs))


async def anote(value):
    calls.append(("async", value))


def add_author(name):
    Author.objects.create(name=name)


def add_author_elsewhere(name):
    Author.objects.using("other").create(name=name)


def is_author_cached(book):
    calls.append(Book.author.field.is_cached(book))


def two(a, b):
    calls.append((a, b))


def repeated(function):
    """Gives the function an argument more than its caller does."""

    @functools.wraps(function)
    def wrapper(*args):
        return function("given", *args)

    return wrapper


@repeated
def decorated(first, second):
    calls.append((first, second))


@functools.lru_cache
def remembered(value):
    calls.append(("remembered", value))


class Greeter:
    """An object whose type is not registered with the codec."""

    def __init__(self, greeting):
        self.greeting = greeting

    def greet(self, name):
        calls.append(f"{self.greeting}, {name}")

    def __whisper(self, name):
        calls.append(f"psst, {name}")

    def whisperer(self):
        return self.__whisper

    def __call__(self, name):
        calls.append(f"{self.greeting} called {name}")

    @classmethod
    def of_class(cls, name):
        calls.append((cls.__name__, name))

    @staticmethod
    def of_nobody(name):
        calls.append(("nobody", name))

    class Inner:
        def __init__(self, value):
            calls.append(("made", value))


class Borrower:
    """Keeps callables of others, which are none of its methods."""

    run = os.system
    start = staticmethod(subprocess.run)
    process = subprocess.Popen
    imported = classmethod(importlib.import_module)
    bound = functools.partial(os.system, "true")
    looked = property(lambda self: os.system)

    def __init__(self):
        self.own = 1


class LoudGreeter(Greeter):
    pass


class Slotted:
    __slots__ = ("word",)

    def __init__(self, word):
        self.word = word

    def say(self):
        calls.append(self.word)


class Shelf(list):
    """A list with a name."""

    def __init__(self, name, items):
        super().__init__(items)
        self.name = name

    def show(self):
        calls.append((self.name, list(self)))


class Register(dict):
    def show(self):
        calls.append(dict(self))


class Point:
    """Made by `__new__` alone, with keywords."""

    place: tuple

    def __new__(cls, *, x, y):
        point = super().__new__(cls)
        point.place = (x, y)
        return point

    def __getnewargs_ex__(self):
        return (), {"x": self.place[0], "y": self.place[1]}

    def show(self):
        calls.append(self.place)


@dataclass
class Order:
    number: int

    def ship(self):
        calls.append(("shipped", self.number))


def make_greeter(greeting):
    return Recipe(greeting)


class Recipe:
    """Says that a function makes it."""

    def __init__(self, greeting):
        self.greeting = greeting

    def __reduce__(self):
        return make_greeter, (self.greeting,)

    def greet(self):
        calls.append(self.greeting)


class Solitary:
    """Is known by its name alone."""

    def __reduce__(self):
        return "solitary"

    def __call__(self):
        pass


solitary = Solitary()


class Unmovable:
    def __reduce_ex__(self, protocol):
        raise TypeError("not me")

    def __call__(self):
        pass


def closure(value):
    def inner():
        return value

    return inner


nameless = lambda: None  # noqa: E731  what is refused
Hidden = type("Elsewhere", (), {"__module__": __name__, "__call__": lambda self: None})
replaced = note


def replaced_later():
    """Another function stands at its name, below."""


before_it_was_replaced = replaced_later


def replaced_later():  # type: ignore[no-redef]
    """The one that a worker would find."""


def fail():
    calls.append(current().attempt)
    raise ValueError("broken")


def fail_once():
    calls.append(current().attempt)
    if current().attempt == 1:
        raise ValueError("the first time")


def fail_for_good():
    calls.append("failing")
    raise PermanentTaskFailure("no use")


def fail_singly():
    if current().attempt == 1:
        raise SingularTaskFailure("once more")
    calls.append("passed")


def run_out_of_time():
    if current().attempt == 1:
        raise TimeoutException
    calls.append("passed")


def see_environment():
    calls.append(
        (
            environment.is_in_task(),
            environment.task_name(),
            environment.task_queue_name(),
            environment.task_retry_count(),
            environment.task_execution_count(),
            environment.is_in_cron(),
        )
    )


# Callbacks of iterations


def touch(book, pages=1):
    Book.objects.filter(pk=book.pk).update(pages=pages)


def note_row(book, *args, **kwargs):
    calls.append((book.pk, args, kwargs))


def note_end(*args, **kwargs):
    calls.append(("end", args, kwargs))


def note_shard(book):
    calls.append(get_deferred_shard_index())


failures = {"left": 0}


def fail_some_times(book):
    if failures["left"]:
        failures["left"] -= 1
        raise ValueError("boom")
    calls.append((book.pk,))


class Marker:
    def __init__(self, title):
        self.title = title

    def mark(self, book):
        Book.objects.filter(pk=book.pk).update(title=self.title)

    def end(self):
        calls.append(f"{self.title} everywhere")


class Stopwatch:
    """Counts the seconds that each leg takes, where each callback takes `step`."""

    def __init__(self):
        self.reset(0)

    def reset(self, step):
        self.step = step
        self.legs = {}

    @property
    def laps(self):
        return list(self.legs.values())


stopwatch = Stopwatch()


def take_time(book):
    clock.move(stopwatch.step)
    leg = current().id
    stopwatch.legs[leg] = stopwatch.legs.get(leg, 0.0) + stopwatch.step
    calls.append((book.pk,))


def defer_another():
    calls.append("outer")
    defer(inner)


def inner():
    calls.append("inner")
