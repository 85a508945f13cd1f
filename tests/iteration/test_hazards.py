"""Hazards that break other libraries, tested against a counter and this library.

The numbers are those of docs/explanation/iteration.md.
"""

from __future__ import annotations

import gc
import pickle
from collections import Counter

import pytest
from django.db import connection
from django.db.models import QuerySet
from django.test.utils import CaptureQueriesContext

from cloudtask import codec
from cloudtask.codec.packing import decoders
from cloudtask.exceptions import PayloadError
from cloudtask.failpoints import Crashed
from cloudtask.iteration import RunState, planner
from cloudtask.iteration.bounds import Bounds
from cloudtask.iteration.description import unsealed
from cloudtask.iteration.sources import QuerySetSource
from cloudtask.iteration.sources.pages import PAGE_MAX
from cloudtask.stores import store
from tests.iteration import tasks
from tests.iteration.models import Seat, Tag, Thing, Word
from tests.iteration.naive import CountingRun, Leg, dies
from tests.iteration.tasks import trace
from tests.iteration.world import fault_at
from tests.testapp.models import Author, Book

pytestmark = pytest.mark.django_db
FOUR = ([1], [2], [3], [4])


def start(count=8, shards=4, task=tasks.visit, **policy):
    Thing.objects.bulk_create(Thing(id=n) for n in range(1, count + 1))
    return task.iterate(
        Thing.objects.all(),
        finalize=tasks.finalize,
        shards=shards,
        keep=True,
        transactional=False,
        **policy,
    )


def assert_each_once(count=8):
    assert Counter(trace.rows) == Counter(range(1, count + 1))
    assert trace.calls.count("finalize") == 1
    assert trace.calls[-1] == "finalize"


def test_h1_one_shard_delivered_twice_finalizes_early(world):
    naive = CountingRun(*FOUR)
    for shard in (0, 0, 1, 2, 3):
        naive.deliver(shard)
    assert naive.calls == [1, 1, 2, 3, "finalize"]  # row 4 is dropped

    start()
    with fault_at(world, "shard.after_complete", 1, "duplicate"):
        world.run()
    assert_each_once()


def test_h2_two_copies_of_the_last_shard_count_past_the_total(world):
    naive = CountingRun(*FOUR, keeps_marker=True)
    for shard in (0, 1, 2):
        naive.deliver(shard)
    for step in (lambda: naive.walk(3), naive.count, naive.compare):
        step()
        step()
    assert "finalize" not in naive.calls[:4]
    assert naive.complete == 5
    assert "finalize" not in naive.calls  # 5 is not 4: never

    start()
    with fault_at(world, "finalize.before_decision", 4, "concurrent duplicate"):
        world.run()
    assert_each_once()


def test_h3_killed_between_commit_and_create_task_of_finalize(world):
    naive = CountingRun(*FOUR)
    naive.before_create = dies
    for shard in (0, 1, 2):
        naive.deliver(shard)
    with pytest.raises(Crashed):
        naive.deliver(3)
    naive.before_create = lambda: None
    naive.deliver(3)  # the redelivery finds no marker
    assert "finalize" not in naive.calls

    start()
    with fault_at(world, "finalize.after_decision", 4, "crash"):
        world.drain()  # without the sweeper
    assert_each_once()


def test_h4_create_task_failing_is_taken_for_a_row_that_failed(world):
    def naive_loop(rows, create_task):
        calls, failed = [], []
        for row in rows:
            try:
                calls.append(row)
                if row == rows[-1]:
                    create_task()
            except ConnectionError:
                failed.append(row)
        return calls, failed

    def refuse():
        raise ConnectionError

    _, failed = naive_loop([1, 2, 3], refuse)
    assert failed == [3]  # it will run again, and finalize was not created

    start()
    with fault_at(world, "create_task", 3, "raised, not created"):
        world.run()
    assert_each_once()


def test_h5_a_commit_that_timed_out_but_happened(world):
    naive = CountingRun(*FOUR)
    naive.commit_answers = False
    naive.deliver(0)
    naive.commit_answers = True
    for shard in (1, 2, 3):
        naive.deliver(shard)
    assert naive.calls == [1, 2, 3, "finalize"]  # 4 was counted, not walked

    start()
    with fault_at(world, "shard.after_complete", 1, "exception"):
        world.run()
    assert_each_once()


def test_h6_a_row_that_always_raises_stalls_its_shard(world):
    def naive_shard(rows, poison, attempts):
        calls = []
        for _ in range(attempts):
            for row in rows:
                if row == poison:
                    break
                calls.append(row)
            else:
                return [*calls, "finalize"]
        return calls

    assert naive_shard([1, 2, 3], 2, attempts=5) == [1] * 5  # 3 never, nor finalize

    trace.raises[2] = [ValueError("always")] * 99
    run = start(task=tasks.visit.using(max_attempts=3))
    world.run()
    assert trace.calls[-1] == "finalize"
    assert (run.report().done, run.report().failed) == (7, 1)


def test_h7_a_kill_repeats_all_rows_of_the_leg(world):
    naive = Leg(range(1, 41), rows=40)
    naive.deliver(dies_after=39)
    naive.drain()
    assert len(naive.calls) == 79

    trace.pace = 0.1
    trace.raises[40] = [Crashed()]
    start(40, shards=1)
    world.run()
    assert len(trace.rows) - 40 <= 20  # two seconds of rows


def test_h8_killed_after_the_continuation_was_created(world):
    naive = Leg(range(1, 13), rows=6)
    naive.deliver(answers=False)
    naive.drain()
    assert Counter(naive.calls)[12] == 2  # both went on

    trace.pace = 1.5
    start(12, shards=1)
    with fault_at(world, "step.after_send", 2, "crash"):
        world.run()
    assert_each_once(12)


def test_h9_two_live_copies(world):
    calls = []

    def naive_delivery(again):
        for row in (1, 2, 3, 4):
            calls.append(row)
            if again and row == 2:
                naive_delivery(again=False)

    naive_delivery(again=True)
    assert Counter(calls) == {1: 2, 2: 2, 3: 2, 4: 2}

    trace.pace = 1.5
    start(12, shards=1, atomic=None)
    with fault_at(world, "shard.after_checkpoint", 1, "delay past the lease"):
        world.run()
    # The copy that hung notices at its next write: what it called since is repeated.
    assert len(trace.rows) - 12 <= 2
    assert trace.calls.count("finalize") == 1


def test_h10_the_planner_dies_midway_and_is_delivered_again(world):
    enqueued = []

    def naive_plan(dies_at):
        for shard in FOUR:
            if len(enqueued) == dies_at:
                return
            enqueued.append(shard)

    naive_plan(dies_at=2)
    naive_plan(dies_at=99)
    assert Counter(map(tuple, enqueued))[1,] == 2  # a second generation

    run = start()
    with fault_at(world, "plan.after_plan", 1, "crash"):
        world.run()
    assert_each_once()
    assert len(store().load_shards(run.id)) == 4


def test_h11_planning_anew_picks_other_keys(world):
    def naive_ranges(keys):
        middle = keys[len(keys) // 2 - 1]
        return (0, middle), (middle, keys[-1])

    keys = list(range(1, 9))
    first_half = naive_ranges(keys)[0]
    second_half = naive_ranges(keys[:6])[1]  # rows 7 and 8 went before the second try
    assert (first_half, second_half) == ((0, 4), (3, 6))  # row 4 in both

    start()
    with fault_at(world, "plan.after_plan", 1, "crash"):
        world.step()
    Thing.objects.filter(id__gt=6).delete()
    world.run()
    assert_each_once(6)


def test_h12_split_keys_sorted_in_python(world):
    words = ["a", "B", "c", "D", "e", "F"]
    Word.objects.bulk_create(Word(text=word) for word in words)

    def rows_of(cuts):
        pairs = zip([None, *cuts], [*cuts, None], strict=True)
        return [
            word.text for pair in pairs for word in Bounds(*pair).of(Word.objects.all())
        ]

    in_python = sorted(words)[1:-1:2]
    assert Counter(rows_of(in_python)) != Counter(words)

    tasks.visit.iterate(Word.objects.all(), shards=3, transactional=False)
    world.run()
    assert Counter(trace.rows) == Counter(words)


@pytest.mark.parametrize("zero", [0, ""])
def test_h13_a_falsy_key_is_a_bound(zero):
    model, key = (Word, "text") if zero == "" else (Thing, "id")
    keys = ["", "x"] if zero == "" else [-1, 0, 1]
    model.objects.bulk_create(model(**{key: value}) for value in keys)

    def naive(low):
        rows = model.objects.order_by("pk")
        return [row.pk for row in (rows.filter(pk__gt=low) if low else rows)]

    assert naive(zero) == keys
    assert [row.pk for row in Bounds(low=zero).of(model.objects.all())] == keys[-1:]


def test_h14_only_the_query_is_kept(world):
    rows = Author.objects.using("other").prefetch_related("books")
    naive = QuerySet(model=Author, query=pickle.loads(pickle.dumps(rows.query)))
    assert naive.db == "default"
    assert naive._prefetch_related_lookups == ()  # type: ignore[attr-defined]

    run = tasks.visit.iterate(rows, transactional=False)
    kept = unsealed(store().load_run(run.id).description).source().queryset  # type: ignore[attr-defined]
    assert kept.db == "other"
    assert kept._prefetch_related_lookups == ("books",)


def test_h15_the_whole_shard_in_memory():
    Thing.objects.bulk_create(Thing(id=n) for n in range(1, 5001))

    gc.collect()  # what earlier tests left in circles

    def alive():
        return sum(type(one) is Thing for one in gc.get_objects())

    before = alive()  # those that modules of other tests hold

    most = 0
    for row in Thing.objects.all():
        if row.id % 2500 == 0:
            most = max(most, alive())
    assert most >= 5000
    del row

    source, bounds, most = QuerySetSource(Thing.objects.all()), Bounds(), 0
    with CaptureQueriesContext(
        connection,
    ) as queries:
        while (page := source.page(bounds, PAGE_MAX)).values:
            most = max(most, alive())
            bounds = Bounds(page.keys[-1])
    assert most <= before + 2 * PAGE_MAX
    assert len(queries) == 4


def test_h16_a_deploy_between_planning_and_running(world, monkeypatch):
    run = start()
    world.step()
    with monkeypatch.context() as deploy:

        def unreadable(data):
            raise PayloadError("No model tests.iteration.Thing.")

        deploy.setitem(decoders, "queryset", unreadable)
        with pytest.raises(PayloadError):
            codec.loads(codec.dumps(Thing.objects.all()))  # naive: a poison task
        world.drain()

    assert run.refresh().state is RunState.FAILED
    assert "resume(queryset)" in run.error
    assert trace.rows == []
    run.resume(Thing.objects.filter(id__gt=0))
    world.run()
    assert_each_once()


def test_a_join_that_repeats_rows_is_walked_once(world):
    thing = Thing.objects.create(id=1)
    Tag.objects.bulk_create(Tag(of=thing) for _ in range(3))
    author = Author.objects.create(name="a")
    Book.objects.bulk_create(Book(title="b", author=author) for _ in range(3))
    assert len(Thing.objects.filter(tags__place=1)) == 3

    tasks.visit.iterate(Thing.objects.filter(tags__place=1), transactional=False)
    tasks.visit.iterate(Author.objects.filter(books__title="b"), transactional=False)
    world.run()

    assert trace.rows == [1, author.pk]


def test_a_plan_of_no_rows_finalizes(world):
    start(0)

    world.run()

    assert trace.calls == ["finalize"]
    assert planner.plan(Seat.objects.all(), 4, include_new=False).pieces == ()
