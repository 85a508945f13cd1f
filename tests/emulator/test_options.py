"""Queues, chaos and pages as people write them."""

from __future__ import annotations

import random
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudtask.emulator.calls.listing import page, queue_filter
from cloudtask.emulator.dispatch import Chaos, parse_chaos
from cloudtask.emulator.dispatch.chaos import plan
from cloudtask.emulator.options import (
    Settings,
    declare,
    parse_options,
    read_options,
    read_queue_yaml,
)
from cloudtask.emulator.options.queues import per_second, seconds
from cloudtask.emulator.protocol.errors import ApiError
from cloudtask.emulator.protocol.names import is_loopback
from tests.emulator.simulation import make_queue


def test_the_words_of_the_setting_queues() -> None:
    options = {
        "rate": "50/s",
        "concurrency": 20,
        "max_attempts": 10,
        "backoff": "1s..10m",
    }

    config = read_options("mail", options).config

    assert (config.rate, config.burst, config.concurrency) == (50.0, 10, 20)
    assert config.retry.max_attempts == 10
    assert (config.retry.min_backoff, config.retry.max_backoff) == (1.0, 600.0)


def test_a_queue_without_options_has_the_services_defaults() -> None:
    config = read_options("mail", {}).config

    assert (config.rate, config.burst, config.concurrency) == (500.0, 100, 1000)
    assert config.retry.max_attempts == 100
    assert (config.retry.min_backoff, config.retry.max_backoff) == (0.1, 3600.0)
    assert config.retry.max_doublings == 16


def test_a_burst_is_kept_whatever_stands_first() -> None:
    first = read_options("q", {"burst": 3, "rate": "50/s"}).config
    last = read_options("q", {"rate": "50/s", "burst": 3}).config

    assert first == last
    assert first.burst == 3


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (10, 10.0),
        (0.5, 0.5),
        ("500ms", 0.5),
        ("10s", 10.0),
        ("2m", 120.0),
        ("1.5h", 5400.0),
        ("1d", 86_400.0),
        (timedelta(minutes=1), 60.0),
    ],
)
def test_durations(value: object, expected: float) -> None:
    assert seconds(value) == expected


@pytest.mark.parametrize(
    ("value", "expected"), [("50/s", 50.0), (5, 5.0), ("30/m", 0.5), ("36/h", 0.01)]
)
def test_rates(value: object, expected: float) -> None:
    assert per_second(value) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"rate": "fast"}, "not a rate"),
        ({"rate": "501/s"}, "up to 500/s"),
        ({"rate": 0}, "above 0"),
        ({"rate": True}, "not a rate"),
        ({"backoff": "10s"}, "not a backoff"),
        ({"backoff": "10m..1s"}, "longest backoff"),
        ({"backoff": "1x..2x"}, "not a duration"),
        ({"concurrency": 5001}, "not in 1 to 5000"),
        ({"concurrency": "20"}, "not a whole number"),
        ({"max_attempts": 0}, "at least 1"),
        ({"max_attempt": 3}, "Did you mean 'max_attempts'"),
        ({"http_target": {"uri_override": {"host": ""}}}, "host cannot be empty"),
    ],
)
def test_a_wrong_option_is_named(options: dict, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint) as caught:
        read_options("mail", options)
    assert "mail" in str(caught.value)


def test_queues_may_be_names_pairs_or_a_mapping() -> None:
    full = "projects/x/locations/y/queues/a"
    listed = declare([full, ("b", {"rate": 5})], project="p", location="l")
    mapped = declare({full: {}, "b": {"rate": 5}}, project="p", location="l")

    assert listed == mapped
    assert list(listed) == [full, "projects/p/locations/l/queues/b"]


@pytest.mark.parametrize("name", ["a b", "projects/p/queues/q", "ä", "x" * 101])
def test_a_wrong_name_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="must be formatted"):
        declare([name], project="p", location="l")


QUEUE_YAML = """
queue:
- name: mail
  rate: 30/m
  bucket_size: 40
  max_concurrent_requests: 7
  retry_parameters:
    task_retry_limit: 7
    task_age_limit: 2d
    min_backoff_seconds: 10
    max_backoff_seconds: 200
    max_doublings: 0
- name: still
  rate: 0
- name: aged
  retry_parameters: {task_age_limit: 1h}
"""


def test_queue_yaml_means_the_same_as_options(tmp_path: Path) -> None:
    path = tmp_path / "queue.yaml"
    path.write_text(QUEUE_YAML)

    queues = declare(read_queue_yaml(path), project="p", location="l")

    mail, still, aged = queues.values()
    assert (mail.config.rate, mail.config.burst) == (0.5, 40)
    assert mail.config.concurrency == 7
    assert mail.config.retry.max_attempts == 8
    assert mail.config.retry.max_retry_duration == 2 * 86_400
    assert mail.config.retry.max_doublings == 0
    assert mail.config.tombstone == 9 * 86_400
    assert still.paused
    assert aged.config.retry.max_attempts == -1


def test_options_may_stand_in_one_text() -> None:
    text = "rate=5/s, max_attempts=-1,backoff=1s..10m,paused"

    assert parse_options(text) == {
        "rate": "5/s",
        "max_attempts": -1,
        "backoff": "1s..10m",
        "paused": True,
    }


def test_defaults_count_where_a_queue_has_no_option_of_its_own() -> None:
    defaults = read_options("defaults", {"max_attempts": 3, "tombstone": "1h"}).config

    queues = declare(
        {"a": {}, "b": {"max_attempts": 7}},
        project="p",
        location="l",
        defaults=defaults,
    )

    a, b = (each.config for each in queues.values())
    assert (a.retry.max_attempts, b.retry.max_attempts) == (3, 7)
    assert a.tombstone == b.tombstone == 3600


@pytest.mark.parametrize("text", ["queue: x", "[]", "queue: [{rate: 1/s}]", "{"])
def test_a_wrong_queue_yaml_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "queue.yaml"
    path.write_text(text)

    with pytest.raises(ValueError, match=r"queue\.yaml"):
        read_queue_yaml(path)


def test_chaos_as_it_is_written() -> None:
    text = "duplicate=0.02,delay=0.05,reorder,drop-response=0.01,seed=7"

    assert parse_chaos(text) == Chaos(
        duplicate=0.02, delay=0.05, reorder=True, drop_response=0.01, seed=7
    )


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("duplicates=1", "'duplicates' is not one of"),
        ("delay=often", "not a number"),
        ("duplicate=2", "probability"),
        ("max-delay=-1", "seconds"),
    ],
)
def test_wrong_chaos_is_named(text: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        parse_chaos(text)


def test_chaos_strikes_as_often_as_asked_and_repeats_with_its_seed() -> None:
    chaos = Chaos(duplicate=0.2, delay=0.1, drop_response=0.05)

    def strikes(seed: int) -> list:
        dice = random.Random(seed)
        return [plan(chaos, dice) for _ in range(5000)]

    seen = strikes(3)
    assert seen == strikes(3)
    assert seen != strikes(4)
    duplicates = sum(each.duplicate_after is not None for each in seen)
    assert duplicates / 5000 == pytest.approx(0.2, abs=0.02)
    assert sum(each.drops_response for each in seen) / 5000 == pytest.approx(
        0.05, abs=0.01
    )
    assert all(each.delay <= 2.0 for each in seen)


@given(
    items=st.sets(st.text("abcdef", min_size=1, max_size=4)).map(sorted),
    size=st.integers(1, 7),
)
def test_pages_show_everything_once(items: list[str], size: int) -> None:
    seen, token = [], ""
    while True:
        shown, token = page(items, size=size, limit=5, token=token, scope="s")
        assert len(shown) <= min(size, 5)
        seen += shown
        if not token:
            break

    assert seen == items


def test_a_page_goes_on_after_an_item_that_is_gone() -> None:
    _, token = page(["a", "b", "c"], size=2, limit=9, token="", scope="s")

    shown, _ = page(["a", "c"], size=2, limit=9, token=token, scope="s")

    assert shown == ["c"]


@pytest.mark.parametrize(("token", "size"), [("%%%", 1), ("YWJj", 1), ("", -1)])
def test_a_wrong_page_is_refused(token: str, size: int) -> None:
    with pytest.raises(ApiError):
        page(["a"], size=size, limit=9, token=token, scope="s")


@pytest.mark.parametrize(
    ("text", "matches"),
    [
        ("", True),
        ("state: RUNNING", True),
        ("state = running", True),
        ('state="PAUSED"', False),
    ],
)
def test_filters_by_state(text: str, matches: bool) -> None:
    assert queue_filter(text)(make_queue()) is matches


@pytest.mark.parametrize("text", ["state", "color = red", "name: q", "state: A AND b"])
def test_a_wrong_filter_is_refused(text: str) -> None:
    with pytest.raises(ApiError, match="Invalid filter"):
        queue_filter(text)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1.2.3", "localhost", "::1"])
def test_loopback_addresses_may_be_served(host: str) -> None:
    assert is_loopback(host)
    assert Settings(host=host).host == host


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.2", "example.com"])
def test_other_addresses_need_permission(host: str) -> None:
    with pytest.raises(ValueError, match="other machines"):
        Settings(host=host)
    assert Settings(host=host, allow_remote=True).host == host


def test_a_target_needs_a_scheme() -> None:
    with pytest.raises(ValueError, match="http://"):
        Settings(target="localhost:8000")
