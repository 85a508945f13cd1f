"""Assertions on the queue and on blocks, and the list of queued calls."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import FrozenInstanceError
from datetime import timedelta
from unittest.mock import ANY

import pytest

from cloudtask.testing import (
    assert_enqueued,
    assert_not_enqueued,
    eager,
    enqueues,
    enqueues_nothing,
    queued,
    run_queued,
)
from tests.testapp.models import Author, Magazine
from tests.testing import tasks


def refused(*args, **kwargs):
    with pytest.raises(AssertionError) as caught:
        assert_enqueued(*args, **kwargs)
    return str(caught.value)


def test_an_enqueued_call_is_found_and_returned():
    tasks.mail.defer(7)
    (call,) = assert_enqueued(tasks.mail)
    assert (call.task, call.args, call.queue) == (tasks.mail.path, (7,), "mail")


def test_arguments_that_are_left_out_may_be_anything():
    tasks.mail.defer(7, template="rich", copies=2)
    assert_enqueued(tasks.mail, 7)
    assert_enqueued(tasks.mail, ANY, copies=2)
    assert_enqueued(tasks.mail, template="rich")


def test_positions_and_keywords_mean_the_same():
    tasks.mail.defer(user_id=7)
    assert_enqueued(tasks.mail, 7)
    tasks.see.defer(1, 2, word="a", other="b")
    assert_enqueued(tasks.see, 1, word="a")


def test_defaults_count_as_given():
    tasks.mail.defer(7)
    assert_enqueued(tasks.mail, template="plain")


def test_an_argument_that_the_task_lacks_is_a_type_error():
    tasks.mail.defer(7)
    with pytest.raises(TypeError, match="colour"):
        assert_enqueued(tasks.mail, colour="red")


def test_nothing_enqueued_is_told():
    assert refused(tasks.mail, 7) == (
        "tests.testing.tasks.mail(7) was not enqueued. Nothing is queued."
    )


def test_the_nearest_call_comes_first_with_what_differs():
    tasks.see.defer()
    tasks.mail.defer(8, template="rich")
    tasks.mail.defer(7)
    lines = refused(tasks.mail, 7, template="rich", copies=1).splitlines()[1:]
    assert [line.split(":")[0].strip() for line in lines] == [
        "tests.testing.tasks.mail(8, template='rich') on 'mail'",
        "tests.testing.tasks.mail(7) on 'mail'",
        "tests.testing.tasks.see() on 'default'",
    ]
    assert lines[0].endswith("user_id=8 instead of 7")
    assert lines[1].endswith("template='plain' instead of 'rich'")


def test_a_long_queue_is_cut_short():
    for number in range(30):
        tasks.see.defer(number)
    assert refused(tasks.mail).endswith("... and 10 more")


def test_count_asks_for_exactly_so_many():
    tasks.mail.defer(7)
    tasks.mail.defer(8)
    assert_enqueued(tasks.mail, count=2)
    assert_enqueued(tasks.mail, 7, count=1)
    assert_enqueued(tasks.see, count=0)
    assert "was enqueued 2 times, not once" in refused(tasks.mail, count=1)


def test_options_must_agree():
    tasks.mail.using(queue="slow", countdown=60).defer(7)
    assert_enqueued(tasks.mail.using(queue="slow"), 7)
    assert "queue='slow' instead of 'fast'" in refused(tasks.mail.using(queue="fast"))


def test_an_option_that_is_the_tasks_own_matters_too():
    tasks.mail.using(queue="slow").defer(7)
    assert_enqueued(tasks.mail, 7)
    assert "queue='slow' instead of 'mail'" in refused(tasks.mail.using(queue="mail"))
    later = tasks.mail.using(countdown=60)
    later.using(queue="slow").defer(8)
    assert_enqueued(later.using(queue="slow"), 8, count=1)
    assert "queue=" in refused(later.using(queue="mail"), 8)


@pytest.mark.parametrize("seconds", [56, 60, 64])
def test_an_eta_agrees_within_five_seconds(seconds):
    tasks.mail.using(countdown=60).defer(7)
    assert_enqueued(tasks.mail.using(countdown=seconds), 7)
    eta = queued()[0].enqueued_at + timedelta(seconds=seconds)
    assert_enqueued(tasks.mail.using(eta=eta), 7)


def test_an_eta_further_away_differs():
    tasks.mail.using(countdown=60).defer(7)
    assert "eta" in refused(tasks.mail.using(countdown=70), 7)
    tasks.see.defer()
    assert "eta None instead of" in refused(tasks.see.using(countdown=70))


def test_a_countdown_is_of_the_time_when_it_was_enqueued():
    tasks.remind.using(countdown=3600).defer(30)
    run_queued(recursive=False)
    assert_enqueued(tasks.tick.using(countdown=1800), "reminder")


@pytest.mark.django_db
def test_a_method_is_enqueued_for_its_instance():
    first, second = (Magazine.objects.create(title=title) for title in "ab")
    first.shout.defer(mark="?")
    assert_enqueued(first.shout, mark="?")
    assert_enqueued(Magazine.shout, mark="?")
    assert_not_enqueued(second.shout)
    assert len(queued(first.shout)) == 1
    assert queued(second.shout) == []


@pytest.mark.django_db
def test_querysets_are_compared_by_what_they_ask():
    tasks.see.defer(Author.objects.filter(name="a"))
    assert_enqueued(tasks.see, Author.objects.filter(name="a"))
    assert_not_enqueued(tasks.see, Author.objects.filter(name="b"))


def test_assert_not_enqueued():
    tasks.mail.defer(7)
    assert_not_enqueued(tasks.mail, 8)
    with pytest.raises(AssertionError, match="should not be there"):
        assert_not_enqueued(tasks.mail, 7)


def test_a_call_that_ran_is_not_queued():
    tasks.mail.defer(7)
    run_queued()
    assert_not_enqueued(tasks.mail)


def test_queued_lists_frozen_values_in_the_order_in_which_they_would_run():
    tasks.mail.using(countdown=60).defer(7)
    tasks.see.defer({"a": (1,)})
    first, second = queued()
    assert (first.kwargs, first.args, second.queue) == ({}, ({"a": (1,)},), "mail")
    with pytest.raises(FrozenInstanceError):
        first.queue = "other"
    assert queued(tasks.mail) == [second]


# Blocks


def test_a_block_counts_what_is_enqueued_inside():
    tasks.mail.defer(7)
    with enqueues(tasks.mail, 8, count=1) as found:
        tasks.mail.defer(8)
        tasks.mail.defer(9)
    assert [call.args for call in found] == [(8,)]


def test_what_was_enqueued_before_the_block_does_not_count():
    tasks.mail.defer(7)
    with (
        pytest.raises(AssertionError, match="Nothing was enqueued in the block"),
        enqueues(tasks.mail, 7),
    ):
        pass


def test_what_ran_inside_the_block_counts():
    with enqueues(tasks.see, count=2):
        tasks.see.defer()
        run_queued()
        with eager():
            tasks.see.defer()


def test_a_block_without_the_call_passes_the_opposite():
    tasks.mail.defer(7)
    with enqueues_nothing(tasks.mail):
        tasks.see.defer()
    with pytest.raises(AssertionError), enqueues_nothing(tasks.see):
        tasks.see.defer()


def test_an_error_inside_the_block_comes_out_as_it_is():
    with pytest.raises(tasks.Trouble), enqueues(tasks.mail):
        raise tasks.Trouble


def test_blocks_nest_and_share_a_statement():
    with enqueues(tasks.mail), enqueues(tasks.see) as found:
        tasks.mail.defer(1)
        with enqueues(tasks.mail, 2, count=1):
            tasks.mail.defer(2)
        tasks.see.defer()
    assert len(found) == 1


def test_a_block_counts_wherever_it_is_opened():
    with ExitStack() as stack:
        found = stack.enter_context(enqueues(tasks.mail, 8))
        tasks.mail.defer(8)
    assert [call.args for call in found] == [(8,)]


def test_a_block_that_enqueues_anything_is_not_one_that_enqueues_nothing():
    tasks.mail.defer(7)
    with enqueues_nothing():
        run_queued()
    with (
        pytest.raises(
            AssertionError, match=r"enqueue nothing\. These calls .*\n  .*mail"
        ),
        enqueues_nothing(),
    ):
        tasks.mail.defer(8)


@pytest.mark.parametrize("block", [enqueues, enqueues_nothing])
def test_an_argument_that_the_task_lacks_is_a_type_error_before_the_block(block):
    with pytest.raises(TypeError, match="colour"), block(tasks.mail, colour="red"):
        tasks.fail()


@pytest.mark.django_db
def test_what_a_rollback_took_back_was_not_enqueued():
    from django.db import transaction

    with enqueues_nothing(tasks.see):
        try:
            with transaction.atomic():
                tasks.see.defer()
                raise tasks.Trouble
        except tasks.Trouble:
            pass


@pytest.mark.django_db
def test_what_awaits_a_commit_counts():
    from django.db import transaction

    with enqueues(tasks.see) as found, transaction.atomic():
        tasks.see.defer()
    assert found[0].awaits_commit
