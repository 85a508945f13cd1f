"""The handle of a run in asynchronous code."""

from __future__ import annotations

import asyncio
import inspect
import io
from typing import Any

import pytest
from django.core.exceptions import SynchronousOnlyOperation
from django.test import TransactionTestCase

from cloudtask import current, iteration
from cloudtask.exceptions import CloudTaskError
from cloudtask.iteration import Iteration, RunState
from cloudtask.testing import arun_queued
from tests.iteration import tasks
from tests.iteration.models import Thing
from tests.iteration.tasks import trace

READ = ["refresh", "progress", "report", "failures"]
CHANGED = ["pause", "resume", "cancel", "retry_failures", "discard_failures", "wait"]
PROPERTIES = ["state", "task", "error"]
FORMS = {"wait": "await_end"}


def form(name: str) -> str:
    return FORMS.get(name, f"a{name}")


def test_each_method_and_property_has_an_asynchronous_form():
    names = {n for n in vars(Iteration) if n[0] != "_" and not n.startswith("a")}
    assert names == {*READ, *CHANGED, *PROPERTIES}
    forms = [getattr(Iteration, form(name)) for name in names]
    assert all(map(inspect.iscoroutinefunction, forms))


@pytest.mark.parametrize("name", [*READ, *CHANGED])
def test_an_asynchronous_form_takes_the_same_arguments(name):
    assert arguments(form(name)) == arguments(name)


def arguments(name: str) -> list[inspect.Parameter]:
    return list(inspect.signature(getattr(Iteration, name)).parameters.values())


class TestAHandle(TransactionTestCase):
    def setUp(self):
        Thing.objects.bulk_create(Thing(id=n) for n in range(1, 11))

    async def test_shows_what_the_run_has_done(self):
        trace.raises[2] = [ValueError("no")]
        run = await tasks.visit.aiterate(
            Thing.objects.all(), on_error="skip", keep=True
        )
        assert await run.astate() is RunState.WAITING
        await arun_queued()

        assert await run.astate() is RunState.FINISHED
        assert (await run.aprogress()).done == 9
        assert (await run.areport()).skipped == 1
        assert [failure.key for failure in await run.afailures()] == ["2"]
        assert await run.afailures(limit=0) == []
        assert await run.atask() == tasks.visit.path
        assert await run.aerror() == ""
        assert await run.arefresh() is run

    async def test_changes_the_run(self):
        trace.raises[2] = [ValueError("no")]
        run = await tasks.visit.aiterate(Thing.objects.all(), on_error="skip")
        await run.apause()
        assert await run.astate() is RunState.PAUSED
        await run.aresume(Thing.objects.filter(pk__lt=6))
        await arun_queued()
        assert (await run.aprogress()).done == 4
        assert await run.aretry_failures() == 1
        await arun_queued()
        assert (await run.aprogress()).done == 5
        assert await run.adiscard_failures() == 0
        with pytest.raises(CloudTaskError, match="finished"):
            await run.acancel()

    async def test_is_found_by_its_id_and_in_the_list(self):
        run = await tasks.visit.aiterate(Thing.objects.all())
        assert await iteration.aget(run.id) == run
        assert await iteration.alist() == [run]
        assert await iteration.alist(RunState.FINISHED) == []
        with pytest.raises(LookupError, match="no iteration"):
            await iteration.aget("x")

    async def test_is_waited_for_while_other_work_goes_on(self):
        run = await tasks.visit.aiterate(Thing.objects.all())
        bar = io.StringIO()
        wait = run.await_end(timeout=600, progress_bar=True, file=bar)
        waiting = asyncio.create_task(wait)
        while not bar.getvalue():
            await asyncio.sleep(0)
        assert not waiting.done()
        await arun_queued()

        assert await (await waiting).astate() is RunState.FINISHED
        assert "10 of 10 (100%)" in bar.getvalue()

    async def test_is_not_waited_for_without_an_end(self):
        run = await tasks.visit.aiterate(Thing.objects.all())
        with pytest.raises(CloudTaskError, match=r"run_queued\(\)"):
            await run.await_end()
        with pytest.raises(TimeoutError):
            await run.await_end(timeout=0)

    async def test_names_the_form_to_await_for_each_synchronous_one(self):
        run = await tasks.visit.aiterate(Thing.objects.all())
        for name in [*READ, *CHANGED, "state", "error"]:
            with pytest.raises(SynchronousOnlyOperation) as caught:
                look(run, name)
            assert f"run.{name} uses" in str(caught.value)
            assert f"write await run.{form(name)}(" in str(caught.value)
        for function in (lambda: iteration.get(run.id), iteration.list):
            with pytest.raises(SynchronousOnlyOperation, match=r"await iteration\.a"):
                function()

    async def test_can_be_used_by_an_asynchronous_callback(self):
        async def cancel(row: Any) -> None:
            await current(required=True).iteration.acancel()

        for atomic in (None, "row", "page"):
            trace.clear()
            trace.acts[4] = cancel
            run = await tasks.act_async.aiterate(
                Thing.objects.all(), shards=1, atomic=atomic, keep=True
            )
            await arun_queued()
            assert await run.astate() is RunState.CANCELLED
            # Within the transaction of a page, the rest of the page comes first.
            called = trace.rows[:4] if atomic == "page" else trace.rows
            assert (atomic, called) == (atomic, [1, 2, 3, 4])
            assert len(set(trace.rows)) == len(trace.rows)


def look(run: Iteration, name: str) -> None:
    found = getattr(run, name)
    if callable(found):
        found()
