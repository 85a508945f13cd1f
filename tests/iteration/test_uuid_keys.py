"""Tables with random UUIDs are cut into equal widths; others never are."""

from __future__ import annotations

import random
import uuid

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from cloudtask.iteration import planner
from cloudtask.iteration.planner import estimates
from tests.iteration.models import Ticket
from tests.iteration.test_planner import rows_of, uuid7

pytestmark = pytest.mark.django_db
ROWS = 4000


@pytest.fixture
def chance():
    return random.Random(4)


def random_key(chance):
    return uuid.UUID(int=chance.getrandbits(128), version=4)


def fill(keys):
    Ticket.objects.bulk_create((Ticket(id=key) for key in keys), batch_size=500)


def first_keys():
    keys = Ticket.objects.order_by("pk").values_list("pk", flat=True)
    return list(keys[: planner.SMALL + 1])


def is_cut(queryset, shards=8):
    return estimates.by_uuids(queryset, shards, first_keys()) is not None


def test_random_keys_are_cut_evenly_by_a_query_a_shard(chance):
    fill(random_key(chance) for _ in range(ROWS))
    tickets = Ticket.objects.all()

    with CaptureQueriesContext(connection) as queries:
        plan = planner.plan(tickets, 8, include_new=False)

    # The first keys, the last one, whether some are time-ordered, seven cuts, their
    # order.
    assert len(queries) == 1 + 1 + 1 + 7 + 1
    sizes = [piece.bounds.of(tickets).count() for piece in plan.pieces]
    assert len(sizes) == 8
    assert sum(sizes) == ROWS
    assert max(sizes) < 1.3 * ROWS / 8
    assert 0.8 * ROWS < plan.total < 1.25 * ROWS
    assert rows_of(plan, tickets) == list(
        tickets.order_by("pk").values_list("pk", flat=True)
    )


def test_the_database_says_which_group_comes_first(chance):
    fill(random_key(chance) for _ in range(ROWS))
    order = estimates._order_of("default")

    places = [order.place_of(key) for key in first_keys()]

    assert places == sorted(places)
    for place in (0.0, 0.25, 0.999):
        assert order.place_of(order.at(place)) == pytest.approx(place, abs=1e-6)
        assert order.at(place).version == 4


def test_a_filter_is_not_a_whole_table(chance):
    fill(random_key(chance) for _ in range(ROWS))

    assert is_cut(Ticket.objects.all())
    assert not is_cut(Ticket.objects.exclude(pk=random_key(chance)))


def test_time_ordered_keys_are_not_random(chance):
    fill(uuid7(n, chance.getrandbits(62)) for n in range(ROWS))

    assert not is_cut(Ticket.objects.all())


def test_a_table_that_went_over_to_time_ordered_keys_is_noticed(chance):
    fill(random_key(chance) for _ in range(ROWS))
    today = 1_790_000_000_000  # milliseconds
    fill(uuid7(today + n, chance.getrandbits(62)) for n in range(ROWS))

    assert not is_cut(Ticket.objects.all())
    plan = planner.plan(Ticket.objects.all(), 8, include_new=False)
    sizes = [piece.bounds.of(Ticket.objects.all()).count() for piece in plan.pieces]
    assert sum(sizes) == 2 * ROWS
    assert max(sizes) < 2 * 2 * ROWS / 8


def test_random_keys_of_which_a_part_is_gone_are_noticed(chance):
    order = estimates._order_of("default")
    keys = [random_key(chance) for _ in range(ROWS)]
    fill(key for key in keys if not 0.4 < order.place_of(key) < 0.6)

    assert not is_cut(Ticket.objects.all())


def test_a_table_emptied_behind_its_first_keys_is_noticed(chance):
    order = estimates._order_of("default")
    keys = [random_key(chance) for _ in range(ROWS)]
    fill(key for key in keys if order.place_of(key) < 0.3)

    assert not is_cut(Ticket.objects.all())
    plan = planner.plan(Ticket.objects.all(), 4, include_new=False)
    assert len(rows_of(plan, Ticket.objects.all())) == Ticket.objects.count()
