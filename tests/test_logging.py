"""Log records name the task that runs, in logging, structlog and Cloud Logging."""

from __future__ import annotations

import json
import logging
import logging.config
import threading

import pytest
import structlog
from structlog.testing import capture_logs

from cloudtask import task
from cloudtask.logging import TaskFilter, add_task
from cloudtask.testing import run_queued
from tests.testapp.models import Author

pytestmark = pytest.mark.django_db(databases="__all__")

logger = logging.getLogger("tests.logging")


class Kept(logging.Handler):
    def __init__(self):
        super().__init__()
        self.records = []

    def emit(self, record):
        self.records.append(record)


@pytest.fixture
def kept():
    handler = Kept()
    handler.addFilter(TaskFilter())
    logger.addHandler(handler)
    yield handler.records
    logger.removeHandler(handler)


@task
def say(text, **extra):
    logger.warning(text, extra=extra)


@task
def say_row(author):
    logger.warning("a row")


@task
def say_in_a_thread():
    thread = threading.Thread(target=logger.warning, args=["in a thread"])
    thread.start()
    thread.join()


@task
async def asay():
    logger.warning("async")


@task
def say_structured():
    structlog.get_logger().info("structured", queue="theirs")


def test_a_record_of_a_task_names_it(kept):
    receipt = say.using(queue="mail").defer("hello")
    run_queued()
    [record] = kept
    assert (record.task, record.task_id) == (say.path, receipt.id)
    assert (record.queue, record.attempt) == ("mail", 1)
    assert (record.run, record.shard) == (None, None)


def test_a_record_outside_of_tasks_has_the_fields_so_that_formats_may_name_them(kept):
    logger.warning("a visitor")
    [record] = kept
    formatter = logging.Formatter("%(task)s %(task_id)s %(run)s %(message)s")
    assert formatter.format(record) == "None None None a visitor"
    assert not hasattr(record, "labels")


def test_a_record_of_a_row_names_run_and_shard(kept):
    Author.objects.create(name="a")
    run = say_row.iterate(Author.objects.all())
    run_queued()
    [record] = kept
    assert (record.run, record.shard) == (run.id, 0)
    assert record.labels["cloudtask.run"] == run.id
    assert record.labels["cloudtask.shard"] == "0"


def test_values_of_the_record_stay(kept):
    say.defer("hello", task="theirs", labels={"team": "a", "cloudtask.queue": "b"})
    run_queued()
    [record] = kept
    assert record.task == "theirs"
    assert record.labels["team"] == "a"
    assert record.labels["cloudtask.queue"] == "b"


def test_labels_are_texts_of_texts_and_json(kept):
    say.defer("hello", labels="no dict")
    run_queued()
    [record] = kept
    assert all(isinstance(value, str) for value in record.labels.values())
    json.dumps(record.labels)


def test_labels_can_be_left_out(kept):
    [handler] = [one for one in logger.handlers if isinstance(one, Kept)]
    handler.filters[:] = [TaskFilter(labels=False)]
    say.defer("hello")
    run_queued()
    assert not hasattr(kept[0], "labels")


def test_an_asynchronous_task_is_named_and_a_thread_of_a_task_is_not(kept):
    asay.defer()
    say_in_a_thread.defer()
    run_queued()
    assert [record.task for record in kept] == [asay.path, None]


def test_structlog_names_the_task_and_keeps_the_values_of_the_event():
    with capture_logs(processors=[add_task]) as events:
        receipt = say_structured.defer()
        run_queued()
        structlog.get_logger().info("outside")
    assert events[0]["task_id"] == receipt.id
    assert events[0]["queue"] == "theirs"
    assert "task" not in events[1]


def test_the_filter_is_configured_as_djangos_logging_does():
    config = logging.config.DictConfigurator({})
    made = config.configure_filter({"()": "cloudtask.logging.TaskFilter"})
    assert made.filter(logging.makeLogRecord({}))


def test_a_task_run_line_has_the_fields(caplog):
    caplog.set_level(logging.INFO, "cloudtask.run")
    lines, handler = logging.getLogger("cloudtask.run"), Kept()
    handler.addFilter(TaskFilter())
    lines.addHandler(handler)
    try:
        say.defer("hello")
        run_queued()
    finally:
        lines.removeHandler(handler)
    [record] = handler.records
    assert record.task == say.path
    assert record.labels["cloudtask.task"] == say.path
