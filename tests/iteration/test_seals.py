"""Nothing that someone wrote to the tables of iteration is decoded, called or told."""

from __future__ import annotations

import sys

import pytest

from cloudtask import codec, envelope
from cloudtask.iteration import get
from cloudtask.models import IterationFailure, IterationRun, IterationShard
from cloudtask.runs import RunState
from cloudtask.stores import sealing
from tests.iteration import tasks
from tests.iteration.models import Thing
from tests.iteration.starting import start
from tests.testapp.tasks import Bomb

pytestmark = pytest.mark.django_db

NEVER_IMPORTED = "django.contrib.auth.management.commands.changepassword"
TAGGED = [
    codec.dumps(Bomb()).decode(),
    f'{{"$": ["class", "{NEVER_IMPORTED}:Command"]}}',
    f"{NEVER_IMPORTED}.Command",
    "cloudtask.deferred.run",
    "7",
]
SEALED = {
    IterationRun: ("task", "queue", "options", "description", "rest"),
    IterationShard: ("low", "high", "cursor", "suspect"),
    IterationFailure: ("key",),
}
COLUMNS = [(model, name) for model, names in SEALED.items() for name in names]


def planned(world, run_id):
    """Deliver until the run has shards and one of them has a key in every column."""
    while not IterationShard.objects.filter(run=run_id).exists():
        assert world.step()


def two_runs(world, model):
    """A run to write to, and another one, as far as they have rows in the table."""
    if model is IterationFailure:
        tasks.trace.raises[12] = [ValueError(), ValueError()]
    ours = start()
    rows = Thing.objects.all()
    other = tasks.visit.iterate(rows, shards=2, keep=True, transactional=False)
    if model is IterationShard:
        planned(world, ours.id)
        planned(world, other.id)
    if model is IterationFailure:
        while IterationFailure.objects.values("run").distinct().count() < 2:
            assert world.step()
    return ours, other


def row_of(model, run):
    owner = "pk" if model is IterationRun else "run"
    return model.objects.filter(**{owner: run.id}).order_by("pk").last()


def kept_in(row, name, value):
    """`value` as the type of the column."""
    is_binary = row._meta.get_field(name).get_internal_type() == "BinaryField"
    return value.encode() if is_binary and isinstance(value, str) else value


def set_to(row, name, value):
    type(row).objects.filter(pk=row.pk).update(**{name: value})


def is_refused(world, run, name):
    world.run()
    found = get(run.id)
    assert found.state is RunState.FAILED
    assert f" {name} is refused" in found.error, found.error
    assert Bomb.decoded == []
    assert NEVER_IMPORTED not in sys.modules
    return True


@pytest.mark.exhaustive(sample=3)
@pytest.mark.parametrize(("model", "name"), COLUMNS)
@pytest.mark.parametrize("value", TAGGED)
def test_a_value_that_was_written_by_someone_else_is_refused(world, model, name, value):
    ours, other = two_runs(world, model)
    row = row_of(model, ours)

    set_to(row, name, kept_in(row, name, value))

    assert is_refused(world, ours, name)
    assert get(other.id).state is RunState.FINISHED


@pytest.mark.parametrize(("model", "name"), COLUMNS)
def test_a_value_of_another_run_is_refused(world, model, name):
    ours, other = two_runs(world, model)
    row, theirs = row_of(model, ours), row_of(model, other)
    value = getattr(theirs, name)
    if name == "task":
        value = "tests.iteration.tasks.finalize"
    elif name == "queue":
        value = "mail"
    elif value is None:
        value = sealed_like(theirs, name)

    set_to(row, name, value)

    assert is_refused(world, ours, name)


def sealed_like(row, name):
    """A value that belongs to the place, for a column that is empty yet."""
    if isinstance(row, IterationRun):
        return envelope.seal_text("[]", place=sealing.run_place(row.pk, name))
    place = sealing.shard_place(row.run_id, row.index, name)
    return envelope.seal_text("1", place=place)


@pytest.mark.parametrize("name", SEALED[IterationShard])
@pytest.mark.parametrize("of", ["another shard", "another column"])
def test_a_key_of_another_place_in_the_run_is_refused(world, name, of):
    ours, _ = two_runs(world, IterationShard)
    row = row_of(IterationShard, ours)
    first = IterationShard.objects.get(run=ours.id, index=0)
    if of == "another shard":
        value = sealed_like(first, name)
    else:
        value = sealed_like(row, "cursor" if name == "high" else "high")

    set_to(row, name, value)

    assert is_refused(world, ours, name)


def test_a_run_that_was_refused_can_be_cancelled_and_shows_its_counts(world):
    ours, _ = two_runs(world, IterationShard)
    set_to(row_of(IterationShard, ours), "high", TAGGED[0])
    world.run()

    run = get(ours.id)
    assert run.progress().done == 6
    run.cancel()
    world.run()

    assert get(ours.id).state is RunState.CANCELLED


def test_a_failure_with_a_strange_key_is_listed_without_it(world):
    ours, _ = two_runs(world, IterationFailure)
    set_to(row_of(IterationFailure, ours), "key", TAGGED[0])

    [shown] = [one for one in get(ours.id).failures() if not one.key]

    assert "is refused" in shown.error


@pytest.mark.parametrize("name", ["low", "high", "cursor"])
def test_a_key_that_became_null_is_refused(world, name):
    ours, _ = two_runs(world, IterationShard)

    set_to(row_of(IterationShard, ours), name, None)

    assert is_refused(world, ours, name)


def test_a_rest_that_became_null_is_refused(world):
    ours, _ = two_runs(world, IterationRun)

    IterationRun.objects.filter(pk=ours.id).update(rest=None, part=1, is_planned=False)

    assert is_refused(world, ours, "rest")
