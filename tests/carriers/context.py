"""Carriers and tasks of the tests: a tenant in a context variable, and odd carriers."""

from __future__ import annotations

from contextlib import contextmanager, nullcontext
from contextvars import ContextVar
from typing import Any

from cloudtask import Retry, current, task
from cloudtask.carriers import Telemetry

HERE = "tests.carriers.context"

tenant: ContextVar[str | None] = ContextVar("tests_tenant", default=None)
seen: list[Any] = []


class Tenant:
    name = "tenant"

    def capture(self):
        found = tenant.get()
        return None if found is None else {"id": found}

    @contextmanager
    def restore(self, carried, context):
        token = tenant.set(carried["id"] if carried else None)
        try:
            yield
        finally:
            tenant.reset(token)


class Odd:
    """A carrier of which tests decide what it does."""

    name = "odd"
    captured: Any = None
    restoring: Any = None

    def capture(self):
        found = Odd.captured
        return found() if callable(found) else found

    def restore(self, carried, context):
        return Odd.restoring(carried, context)


class Observer(Telemetry):
    """Notes all that telemetry is called with."""

    name = "observer"
    notes: list[Any] = []
    error: BaseException | None = None
    captured: Any = {"from": "here"}

    def _note(self, *what):
        Observer.notes.append(what)
        if Observer.error is not None:
            raise Observer.error

    def capture(self):
        self._note("capture")
        return Observer.captured

    def following(self, carried):
        self._note("following", carried)
        return carried

    @contextmanager
    def restore(self, carried, context):
        self._note("restore", carried, context.task)
        yield lambda outcome, error: self._note("settled", outcome.value, error)
        self._note("left")

    @contextmanager
    def enqueueing(self, what):
        self._note("enqueueing", what.task, what.calls, what.waits)
        yield

    @contextmanager
    def sending(self, queue, carried):
        self._note("sending", queue, list(carried))
        yield

    def noted(self, facts):
        self._note("noted", facts)


class Twin(Tenant):
    """Has the name of another carrier."""


class Nameless:
    name = ""

    def capture(self):
        return None

    def restore(self, carried, context):
        return nullcontext()


class Unfinished:
    name = "unfinished"

    def capture(self):
        return None


class Unmade(Tenant):
    def __init__(self):
        raise RuntimeError("no such server")


@task
def see(*args):
    seen.append((tenant.get(), *args))


@task(max_attempts=3)
def see_and_fail():
    seen.append((tenant.get(), current().attempt))
    raise ValueError("broken")


@task
def see_and_retry():
    seen.append((tenant.get(), current().attempt))
    if current().attempt < 3:
        raise Retry(delay=1)


@task
async def asee():
    seen.append((tenant.get(), "async"))


@task
def see_and_defer():
    see.defer("below")


@task
def see_row(row):
    seen.append((tenant.get(), row.pk))


@task
def see_end():
    seen.append((tenant.get(), "end"))


def note_tenant(*args):
    seen.append((tenant.get(), *args))


@task
def leave_changed():
    tenant.set("left by a task")


class Broken(Tenant):
    name = "broken"

    def capture(self):
        raise LookupError("no tenant")
