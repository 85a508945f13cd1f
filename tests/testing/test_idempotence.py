"""assert_idempotent."""

from __future__ import annotations

import pytest

from cloudtask.testing import NotIdempotent, assert_idempotent, queued
from tests.testapp.models import Author, Book
from tests.testing import tasks
from tests.testing.conftest import balance


def refused(task, *args):
    with pytest.raises(NotIdempotent) as caught:
        assert_idempotent(task, *args)
    return str(caught.value)


@pytest.mark.parametrize("task", [tasks.pay_once, tasks.set_balance])
def test_an_idempotent_task_passes(account, task):
    assert_idempotent(task, account.pk, 10)


def test_a_task_that_pays_twice_is_named_with_fault_and_seed(account):
    text = refused(tasks.pay, account.pk, 10)
    assert f"{tasks.pay.path} is not idempotent: delivered twice" in text
    assert "Faults(duplicate=True, seed=0)" in text
    assert f"testapp.Book pk={account.pk}: pages 10 -> 20" in text


def test_rows_that_are_made_twice_are_named(account):
    text = refused(tasks.open_accounts, "a", "b")
    assert "testapp.Author" in text
    assert "is new" in text


def test_a_task_that_a_crash_breaks_is_named_with_the_point(account):
    text = refused(tasks.pay_unless_succeeded, account.pk, 10)
    assert "after a crash at enqueue.before_send and a second delivery" in text
    assert "pages 10 -> 20" in text


def test_what_it_enqueues_counts(account):
    assert "pages 10 -> " in refused(tasks.pass_on, account.pk, 10)
    assert_idempotent(tasks.pass_on_once, account.pk, 10)


def test_new_rows_may_have_other_keys_and_times(account):
    assert_idempotent(tasks.open_account, "new")


def test_nothing_is_left_of_it(account):
    tasks.see.defer("mine")
    assert_idempotent(tasks.set_balance, account.pk, 10)
    refused(tasks.open_accounts, "a")
    assert (balance(account), Book.objects.count(), Author.objects.count()) == (0, 1, 0)
    assert [call.args for call in queued()] == [("mine",)]


def test_what_the_task_raises_comes_out(account):
    with pytest.raises(tasks.Trouble):
        assert_idempotent(tasks.fail)


def test_options_and_subjects_travel(account):
    assert_idempotent(
        tasks.set_balance.using(queue="slow", countdown=60), account.pk, 1
    )


@pytest.mark.django_db(transaction=True)
def test_with_real_transactions_too():
    account = Book.objects.create(title="account")
    assert_idempotent(tasks.pay_once, account.pk, 10)
    refused(tasks.pay, account.pk, 10)
    assert balance(account) == 0
    Book.objects.all().delete()


@pytest.mark.django_db(databases=["default", "other"])
def test_every_database_is_compared(account):
    Author.objects.using("other").count()
    assert "testapp.Author in 'other'" in refused(tasks.in_the_other, "x")


def test_without_a_database_it_says_so():
    with pytest.raises(RuntimeError, match="Database access not allowed"):
        assert_idempotent(tasks.see)
