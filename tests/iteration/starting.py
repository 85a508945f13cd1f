"""Runs that tests begin with, and what happens to them on the way."""

from __future__ import annotations

import itertools

from cloudtask import failpoints
from tests.iteration import tasks
from tests.iteration.models import Thing


def start(count=12, task=tasks.visit, **policy):
    Thing.objects.bulk_create(Thing(id=n) for n in range(1, count + 1))
    policy = {
        "finalize": tasks.finalize,
        "on_failure": tasks.on_failure,
        "shards": 2,
        "keep": True,
        **policy,
    }
    return task.iterate(Thing.objects.all(), transactional=False, **policy)


def at_point(point, passage, action):
    """Do something once, in the middle of a delivery."""
    counter = itertools.count(1)

    def act():
        if next(counter) == passage:
            action()

    return failpoints.at(point, act)
