"""finalize and on_failure: their lease, their calls, and what can't be called."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace

import pytest
from django.test import override_settings

from cloudtask import PermanentTaskFailure, Retry, registry
from cloudtask.exceptions import CloudTaskError
from cloudtask.failpoints import Crashed
from cloudtask.iteration import RunState, sweep
from cloudtask.iteration.description import unsealed
from cloudtask.iteration.steps import FINALIZE, STOP, opened, say
from cloudtask.models import FailedTask
from cloudtask.stores import store
from cloudtask.testing import run_queued
from tests.iteration import tasks
from tests.iteration.models import Thing
from tests.iteration.starting import at_point, start
from tests.iteration.tasks import trace
from tests.support import clock

pytestmark = pytest.mark.django_db

HALF_AN_HOUR = 1800  # seconds
TEXTS = ["nul \0", "surrogate \udc80"]


def to_finalizing(world, run):
    while run.refresh().state is not RunState.FINALIZING:
        world.step()


@contextmanager
def unknown(task, monkeypatch):
    """A version that does not know the task."""
    with monkeypatch.context() as deploy:
        deploy.setattr(registry, "_known", dict(registry._known))
        deploy.setattr(registry, "finders", [])
        registry._known.pop(task.path)
        deploy.setattr(registry, "_import_module_of", lambda *args: None)
        yield


class TestLease:
    def test_a_plain_function_has_the_time_that_its_message_has(self, world):
        run = start(
            2, tasks.visit.using(timeout=HALF_AN_HOUR), finalize=tasks.plain_finalize
        )

        def take_long():
            clock.move(16 * 60)
            assert sweep() == 0
            world.again()
            clock.move(60)

        with at_point("finalize.before_call", 1, take_long):
            world.drain()

        assert trace.calls.count("finalize") == 1
        assert run.refresh().state is RunState.FINISHED


class TestCalls:
    def test_a_process_that_died_uses_up_one_call(self, world):
        trace.raises["finalize"] = [Crashed()]
        run = start(2, finalize=tasks.finalize_thrice)

        world.drain()

        assert run.refresh().state is RunState.FINISHED
        assert trace.calls.count("finalize") == 2
        assert not FailedTask.objects.exists()

    def test_a_duplicate_that_meets_the_lease_is_not_kept_as_failed(self, world):
        run = start(2, finalize=tasks.finalize_thrice)

        def come_again():
            world.deliver(world.delivered[-1][0], retries=9)

        with at_point("finalize.before_call", 1, come_again):
            world.drain()

        assert run.refresh().state is RunState.FINISHED
        assert trace.calls.count("finalize") == 1
        assert not FailedTask.objects.exists()

    def test_waiting_for_shards_at_work_uses_up_none(self, world):
        run = start(2, shards=1, on_failure=tasks.on_failure_thrice)

        def cancel_and_go_on():
            run.cancel()
            for _ in range(6):
                world.step()

        with at_point("shard.before_complete", 1, cancel_and_go_on):
            world.drain()

        assert trace.attempts == [(1, 3, False)]
        assert run.refresh().state is RunState.CANCELLED
        assert not FailedTask.objects.exists()

    def test_one_that_always_kills_its_process_fails_the_run(self, world):
        trace.raises["finalize"] = [Crashed() for _ in range(9)]
        run = start(2, finalize=tasks.finalize_thrice)

        world.run()

        assert run.refresh().state is RunState.FAILED
        assert run.error == "finalize: the worker was killed in call 3 of 3."
        assert trace.calls.count("finalize") == 3
        trace.raises.clear()
        run.resume()
        world.run()
        assert run.refresh().state is RunState.FINISHED
        assert trace.attempts[-1] == (1, 3, False)

    def test_an_on_failure_that_always_kills_its_process_is_given_up(self, world):
        trace.raises["on_failure"] = [Crashed() for _ in range(9)]
        run = start(2, on_failure=tasks.on_failure_thrice)
        run.cancel()

        world.run()

        assert run.refresh().state is RunState.CANCELLED
        assert run.error == "on_failure: the worker was killed in call 3 of 3."
        assert run.report().finished is not None
        assert trace.calls.count("on_failure") == 3

    def test_one_that_returned_leaves_no_error_of_its_own(self, world):
        trace.raises["on_failure"] = [ValueError("no")]
        run = start(2)
        run.cancel()

        world.run()

        assert trace.calls.count("on_failure") == 2
        assert (run.refresh().state, run.error) == (RunState.CANCELLED, "")

    def test_without_max_attempts_it_is_called_for_ever(self, world):
        errors = [ValueError("no"), Crashed()] * 4
        trace.raises["finalize"] = [*errors]
        run = start(2)

        world.run()

        assert run.refresh().state is RunState.FINISHED
        assert trace.attempts == [(n, None, False) for n in range(1, 10)]

    def test_a_plain_function_does_not_have_the_attempts_of_the_rows(self, world):
        trace.raises["finalize"] = [ValueError("no")] * 3
        task = tasks.visit.using(max_attempts=2)
        run = start(2, task, finalize=tasks.plain_finalize)

        world.run()

        assert run.refresh().state is RunState.FINISHED
        assert trace.attempts[-1] == (4, None, False)

    def test_it_is_told_of_its_calls(self, world):
        trace.raises["finalize"] = [ValueError("no")] * 2
        run = start(2, finalize=tasks.finalize_thrice)

        world.run()

        assert run.refresh().state is RunState.FINISHED
        assert trace.attempts == [(1, 3, False), (2, 3, False), (3, 3, True)]

    def test_one_that_asks_for_a_retry_is_not_given_up(self, world):
        trace.raises["finalize"] = [Retry(delay=1) for _ in range(5)]
        run = start(2, finalize=tasks.finalize_thrice)

        world.run()

        assert run.refresh().state is RunState.FINISHED
        assert trace.calls.count("finalize") == 6

    def test_one_that_was_given_up_is_kept_with_its_traceback(self, world):
        trace.raises["finalize"] = [ValueError("no")] * 3
        run = start(2, finalize=tasks.finalize_thrice)

        world.run()

        assert run.refresh().state is RunState.FAILED
        assert run.error == "finalize: ValueError: no"
        [kept] = FailedTask.objects.all()
        assert "in finalize_thrice" in kept.traceback

    def test_one_that_can_not_succeed_is_called_once(self, world):
        trace.raises["finalize"] = [PermanentTaskFailure("no")]
        run = start(2)

        world.run()

        assert run.refresh().state is RunState.FAILED
        assert trace.calls.count("finalize") == 1

    @pytest.mark.parametrize("via", ["direct", "http"])
    def test_what_the_last_call_raises_comes_out_of_a_run_of_tests(self, via):
        trace.raises["finalize"] = [ValueError("no")]
        start(2, finalize=tasks.finalize_once)

        with pytest.raises(ValueError, match=r"^no$"):
            run_queued(via=via)


class TestRetry:
    def test_its_delay_is_left_alone_by_the_sweeper(self, any_store, world):
        trace.raises["finalize"] = [Retry(delay=3600) for _ in range(3)]
        run = start(2)
        to_finalizing(world, run)
        began = clock.now()

        world.pass_time(minutes=170)
        assert trace.calls.count("finalize") == 3
        world.pass_time(minutes=20)

        assert trace.calls.count("finalize") == 4
        assert run.refresh().state is RunState.FINISHED
        assert clock.now() - began == pytest.approx(190 * 60, abs=60)

    def test_one_that_is_lost_is_found_when_it_was_due(self, any_store, world):
        trace.raises["finalize"] = [Retry(delay=3600)]
        run = start(2)
        to_finalizing(world, run)
        world.step()
        world.purge()
        world.later()
        assert sweep() == 0

        clock.move(3600)
        world.run()

        assert run.refresh().state is RunState.FINISHED

    @pytest.mark.parametrize("delay", [8e13, 1e9])
    def test_a_delay_beyond_all_times_is_one(self, world, delay):
        trace.raises["finalize"] = [Retry(delay=delay)]
        run = start(2)

        world.drain()

        assert run.refresh().state is RunState.FINISHED


class TestWaiting:
    @pytest.mark.parametrize("last", ["finalize", "on_failure"])
    def test_a_function_that_is_not_known_yet_waits_in_one_task(
        self, any_store, world, monkeypatch, last
    ):
        run = start(2)
        with unknown(getattr(tasks, last), monkeypatch):
            if last == "on_failure":
                run.cancel()
            world.pass_time(minutes=120)
            path = getattr(tasks, last).path
            assert f"{last} waits: No task {path!r} is known" in run.refresh().error
            assert len(world.waiting) == 1

        world.run()

        assert trace.calls.count(last) == 1

    @pytest.mark.parametrize("last", ["finalize", "on_failure"])
    def test_a_step_whose_number_was_replaced_is_settled(self, world, last):
        run = start(2)
        if last == "on_failure":
            run.cancel()
        else:
            to_finalizing(world, run)
        # A sweeper that is killed before it can enqueue the new step.
        assert store().bump_run(store().load_run(run.id)) is not None
        # Other steps would make up for it.
        world.collect()
        world.waiting = [
            one for one in world.waiting if one[2].message.task in (FINALIZE, STOP)
        ]

        world.drain()
        assert last not in trace.calls
        world.run()

        assert trace.calls.count(last) == 1


class TestTexts:
    @pytest.mark.parametrize("text", TEXTS)
    def test_any_error_can_be_told(self, any_store, world, text):
        trace.raises["finalize"] = [ValueError(text) for _ in range(3)]
        run = start(2, finalize=tasks.finalize_thrice)

        world.run()

        assert run.refresh().state is RunState.FAILED
        assert run.error.startswith(f"finalize: ValueError: {text.split()[0]} \\")

    @pytest.mark.parametrize("text", TEXTS)
    def test_a_run_can_say_anything(self, any_store, text):
        run = start(2)

        say(store(), store().load_run(run.id), text)

        assert run.refresh().error.startswith(f"{text.split()[0]} \\")


class TestAKeyThatIsGone:
    """SECRET_KEY was changed without a fallback: no description can be opened."""

    @pytest.fixture
    def begun(self, any_store, world):
        run = start(2)
        world.step()
        world.purge()  # those of before are refused, too
        return run

    @pytest.fixture
    def rotated(self, begun):
        with override_settings(SECRET_KEY="another one"):
            yield begun

    def test_the_run_fails_and_says_what_helps(self, world, rotated):
        world.run()

        assert rotated.refresh().state is RunState.FAILED
        assert "SECRET_KEY_FALLBACKS" in rotated.error
        assert "resume(queryset)" not in rotated.error

    def test_another_queryset_does_not_help(self, world, rotated):
        world.run()

        with pytest.raises(CloudTaskError, match="SECRET_KEY_FALLBACKS and resume it"):
            rotated.resume(Thing.objects.all())
        assert rotated.refresh().state is RunState.FAILED

    def test_it_can_be_cancelled(self, world, rotated):
        rotated.cancel()

        world.drain()

        assert rotated.refresh().state is RunState.CANCELLED
        assert rotated.report().finished is not None
        assert "on_failure can't be called" in rotated.error
        assert trace.calls == []
        assert world.waiting == []

    def test_finalize_fails_and_is_called_when_the_key_is_back(self, any_store, world):
        run = start(2)
        to_finalizing(world, run)
        world.purge()
        with override_settings(SECRET_KEY="another one"):
            world.run()
            assert run.refresh().state is RunState.FAILED
            assert "is refused" in run.error
            assert "SECRET_KEY_FALLBACKS" in run.error

        run.resume()
        world.run()

        assert run.refresh().state is RunState.FINISHED
        assert trace.calls.count("finalize") == 1


def test_a_late_delivery_does_not_fail_a_run_that_was_given_another_queryset(world):
    run = start(2)
    run.pause()
    sealed = store().load_run(run.id).description
    store().change_run(
        run.id,
        to=RunState.PLANNING,
        only_from=[RunState.PAUSED],
        description=replace(unsealed(sealed), queryset=b"{").sealed(),
    )
    before = store().load_run(run.id)
    run.pause()
    run.resume(Thing.objects.all())

    assert opened(store(), before) is None

    assert run.refresh().state is RunState.PLANNING
    world.run()
    assert run.refresh().state is RunState.FINISHED
