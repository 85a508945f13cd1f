"""How to test tasks: each test shows one thing, in the order in which you need them.

    pytest tests/manual
    python -m django test tests.manual --settings=tests.settings

Both commands run it without configuration. Under a test runner, tasks stay in the
process, in a queue that is empty at the start of each test.
"""

# ruff: noqa: PT009, PT027  unittest's assertions, for readers who have no pytest

from __future__ import annotations

import threading
from datetime import timedelta
from unittest.mock import ANY

from django.test import TestCase
from django.utils import timezone

from cloudtask.exceptions import UnsupportedValue
from cloudtask.testing import (
    CloudTaskTestMixin,
    EndlessTasks,
    Faults,
    NotIdempotent,
    assert_enqueued,
    assert_idempotent,
    assert_not_enqueued,
    crash_at,
    eager,
    enqueues,
    queued,
    run_queued,
)
from tests.manual.library import (
    count_page,
    count_page_once,
    fetch_cover,
    remind,
    send_welcome,
    sign_up,
    tidy_for_ever,
)
from tests.testapp.models import Author, Book, Label


class WhatIsEnqueued(TestCase):
    def test_a_call_is_enqueued(self):
        sign_up("Ada")
        assert_enqueued(send_welcome, "Ada")

    def test_what_you_leave_out_may_be_anything(self):
        sign_up("Ada")
        assert_enqueued(send_welcome)
        assert_enqueued(send_welcome, ANY, template="rich")
        assert_not_enqueued(send_welcome, template="plain")

    def test_options_and_times_can_be_asked_for(self):
        sign_up("Ada")
        assert_enqueued(send_welcome.using(queue="mail"), count=1)
        assert_enqueued(remind.using(countdown=3600))

    def test_a_block_looks_at_what_is_enqueued_inside_of_it(self):
        sign_up("Ada")
        with enqueues(send_welcome, "Grace", count=1) as calls:
            sign_up("Grace")
        self.assertEqual(calls[0].kwargs, {"template": "rich"})

    def test_the_queue_can_be_looked_through(self):
        sign_up("Ada")
        welcome, reminder = sorted(queued(), key=lambda call: call.task, reverse=True)
        self.assertEqual((welcome.args, welcome.queue), (("Ada",), "mail"))
        self.assertGreater(reminder.eta, timezone.now())


class Running(TestCase):
    def test_what_is_queued_runs_here_and_now(self):
        author = sign_up("Ada")
        report = run_queued()
        self.assertEqual(Label.objects.get().name, "Welcome, Ada")
        author.refresh_from_db()
        self.assertIn("reminded", author.name)
        self.assertEqual((report.calls[remind], report.remaining), (1, []))

    def test_a_failure_fails_the_test(self):
        fetch_cover.defer(1)
        with self.assertRaisesMessage(ConnectionError, "not to be had"):
            run_queued()

    def test_or_is_collected(self):
        fetch_cover.defer(1)
        send_welcome.defer("Ada")
        report = run_queued(errors="collect")
        self.assertEqual((len(report.ran), len(report.failed)), (1, 1))

    def test_arguments_travel_as_they_would_in_production(self):
        with self.assertRaisesMessage(UnsupportedValue, "args[0]"):
            send_welcome.defer(threading.Lock())

    def test_eager_runs_at_once(self):
        with eager():
            send_welcome.defer("Ada")
            self.assertEqual(Label.objects.count(), 1)

    def test_tasks_that_never_end_are_named(self):
        tidy_for_ever.defer()
        with self.assertRaisesMessage(EndlessTasks, "tidy_for_ever -> "):
            run_queued()


class Time(TestCase):
    def test_an_hour_passes_in_no_time(self):
        author = sign_up("Ada")
        report = run_queued(until=timedelta(minutes=59))
        self.assertEqual([call.task for call in report.remaining], [remind.path])
        run_queued(until=timedelta(hours=2))
        author.refresh_from_db()
        self.assertIn("reminded", author.name)

    def test_retries_come_after_the_backoff(self):
        book = Book.objects.create(title="Notes")
        fetch_cover.defer(book.pk)
        report = run_queued(errors="retry", until=timedelta(hours=1))
        start = report.attempts[0].at
        after = [(one.at - start).total_seconds() for one in report.attempts]
        self.assertEqual(after, [0, 10, 30, 70, 150])
        book.refresh_from_db()
        self.assertEqual(book.data, {"cover": "green"})

    def test_the_task_itself_can_be_shown_that_time(self):
        author = sign_up("Ada")
        (reminder,) = queued(remind)
        run_queued(freeze=True)
        author.refresh_from_db()
        self.assertEqual(author.name, f"Ada, reminded at {reminder.eta:%H:%M}")


class Faulty(TestCase):
    """Cloud Tasks may deliver a call twice, late, or to a process that is killed."""

    def setUp(self):
        self.book = Book.objects.create(title="Notes", pages=0)

    def test_a_second_delivery_is_no_harmless_thing(self):
        count_page.defer(self.book.pk)
        with self.assertRaises(NotIdempotent) as caught:
            run_queued(faults=Faults(duplicate=True, seed=7))
        text = str(caught.exception)
        for word in ("library.count_page", "duplicate", "seed=7", "pages 1 -> 2"):
            self.assertIn(word, text)

    def test_unless_the_task_is_made_for_it(self):
        for seed in range(10):
            count_page_once.defer(self.book.pk)
            run_queued(faults=Faults(duplicate=0.5, crash=0.5, reorder=0.5, seed=seed))
        self.book.refresh_from_db()
        self.assertEqual(self.book.pages, 10)

    def test_a_process_can_die_where_it_hurts(self):
        count_page_once.defer(self.book.pk)
        run_queued(faults=crash_at("execute.after_call"))
        self.book.refresh_from_db()
        self.assertEqual(self.book.pages, 1)

    def test_all_of_it_in_one_line(self):
        assert_idempotent(count_page_once, self.book.pk)
        with self.assertRaisesMessage(NotIdempotent, "count_page is not idempotent"):
            assert_idempotent(count_page, self.book.pk)


class OverHttp(TestCase):
    def test_the_url_the_middleware_and_the_verification_are_the_real_ones(self):
        sign_up("Ada")
        report = run_queued(via="http")
        self.assertEqual(report.calls, {send_welcome.path: 1, remind.path: 1})


class AsMethods(CloudTaskTestMixin, TestCase):
    """The same as methods; a strict test must not leave anything queued."""

    cloudtask_strict = True

    def test_with_the_mixin(self):
        with self.enqueues(send_welcome):
            sign_up("Ada")
        self.run_queued()
        self.assertEqual(Author.objects.count(), 1)
