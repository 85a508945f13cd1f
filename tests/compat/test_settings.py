"""djangae's settings apply if CLOUDTASK lacks the key."""

from __future__ import annotations

import pytest

from cloudtask import conf
from cloudtask.deferred import defer
from cloudtask.exceptions import QueueNotFound
from cloudtask.testing import queued
from tests.compat import things

QUEUES = [
    {
        "name": "default",
        "rate_per_second": "1",
        "rate_max_concurrent": 10,
        "retry_max_attempts": 3,
    },
    {"name": "mail"},
]


@pytest.fixture(autouse=True)
def settings_of_djangae(settings):
    settings.CLOUD_TASKS_PROJECT_ID = "theirs"
    settings.CLOUD_TASKS_LOCATION = "europe-west1"
    settings.CLOUD_TASKS_QUEUES = QUEUES
    return settings


def test_project_and_location_are_understood():
    found = conf.settings()
    assert (found.project, found.location) == ("theirs", "europe-west1")


def test_the_queues_are_understood():
    queue = conf.settings().queues["default"]
    assert (queue.rate, queue.concurrency, queue.max_attempts) == (1.0, 10, 3)
    assert set(conf.settings().queues) == {"default", "mail"}


def test_ours_go_before_them(settings_of_djangae):
    settings_of_djangae.CLOUDTASK = {"PROJECT": "ours"}
    found = conf.settings()
    assert (found.project, found.location) == ("ours", "europe-west1")


def test_a_queue_that_is_not_among_them_is_refused():
    defer(things.note, _queue="mail")
    with pytest.raises(QueueNotFound, match="mails"):
        defer(things.note, _queue="mails")
    assert len(queued()) == 1


def test_minus_one_attempts_mean_for_ever(settings_of_djangae):
    settings_of_djangae.CLOUD_TASKS_QUEUES = [
        {"name": "default", "retry_max_attempts": -1}
    ]
    assert conf.settings().max_attempts("default") > 1_000_000_000
