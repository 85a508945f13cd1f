"""The list of options, and the values that options have."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, get_args, get_type_hints

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloudtask import Backoff, deferred
from cloudtask.context import TaskContext
from cloudtask.options import (
    OPTIONS,
    Options,
    as_timedelta,
    nearest,
    options_from_wire,
)
from cloudtask.options.keywords import TaskOptions, UsingOptions
from tests.docs.blocks import ROOT


def delays(backoff: Backoff, count: int) -> list[float]:
    return [backoff.delay(n).total_seconds() for n in range(1, count + 1)]


def test_the_waits_are_those_of_the_services_own_example() -> None:
    # RetryConfig.max_doublings in google/cloud/tasks/v2/queue.proto
    assert delays(Backoff(10, 300, 3), 8) == [10, 20, 40, 80, 160, 240, 300, 300]


def test_without_doublings_the_waits_grow_evenly() -> None:
    assert delays(Backoff(5, 22, 0), 6) == [5, 10, 15, 20, 22, 22]


def test_no_wait_at_all_is_possible() -> None:
    assert delays(Backoff(0, 0), 3) == [0, 0, 0]


@given(
    low=st.floats(0, 1e6),
    more=st.floats(0, 1e9),
    doublings=st.integers(0, 100_000),
    retry=st.integers(1, 1_000_000),
)
def test_every_wait_lies_in_between_and_none_is_shorter_than_the_one_before(
    low: float, more: float, doublings: int, retry: int
) -> None:
    backoff = Backoff(low, low + more, doublings)
    waits = [backoff.delay(retry), backoff.delay(retry + 1)]
    assert backoff.min <= waits[0] <= waits[1] <= backoff.max


@pytest.mark.parametrize("args", [(2, 1), (-1, 1), (1, 2, -1)])
def test_a_backoff_that_makes_no_sense_is_refused(args: Any) -> None:
    with pytest.raises(ValueError, match="0 <= min <= max"):
        Backoff(*args)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 1e300])
def test_what_is_no_duration_is_refused_by_its_name(value: float) -> None:
    with pytest.raises(ValueError, match="countdown is not a duration"):
        as_timedelta(value, "countdown")
    with pytest.raises(ValueError, match="timeout is not a duration"):
        Options(timeout=value)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "given_options",
    [
        {},
        {"max_attempts": 3, "atomic": True, "database": "other"},
        {"backoff": Backoff(1, 2, 3), "timeout": timedelta(seconds=20)},
        {"service": "s", "version": "v", "instance": "i"},
        {"url": "/x/", "headers": {"X-A": "1"}},
    ],
)
def test_options_that_the_handler_needs_travel(given_options: dict[str, Any]) -> None:
    options = Options(queue="mail").updated(given_options)
    assert options_from_wire(options.travelling, "mail") == options


def test_options_of_a_newer_version_are_left_out() -> None:
    assert options_from_wire({"colour": "red"}, "mail") == Options(queue="mail")


def hints(kind: type) -> dict[str, Any]:
    return get_type_hints(kind, localns={"TaskContext": TaskContext})


def test_type_checkers_know_the_options_of_the_list() -> None:
    ours = {name for name, one in OPTIONS.items() if not one.only_in_using}
    assert set(TaskOptions.__annotations__) == ours
    assert UsingOptions.__optional_keys__ == set(OPTIONS)


@pytest.mark.parametrize("name", OPTIONS)
def test_type_checkers_know_the_types_of_the_list(name: str) -> None:
    kept, given = hints(Options)[name], hints(UsingOptions)[name]
    # A duration may be given in seconds; it is kept as a timedelta.
    assert given == (kept | float if timedelta in get_args(kept) else kept)


@pytest.mark.parametrize("name", OPTIONS)
def test_a_wrong_value_names_the_option(name: str) -> None:
    with pytest.raises(TypeError, match=name):
        Options().updated({name: object()})


@pytest.mark.parametrize(
    "theirs", [name for one in OPTIONS.values() for name in one.deferred]
)
def test_the_page_for_djangae_and_the_docstring_name_every_option(theirs: str) -> None:
    page = (ROOT / "docs/howto/from-djangae.md").read_text(encoding="utf-8")
    assert f"`{theirs}" in str(deferred.defer.__doc__)
    assert f"`{theirs}" in page


def test_the_nearest_name_is_found_whatever_its_case() -> None:
    assert nearest("colour", ["Color", "size"]) == "did you mean 'Color'?"
    assert nearest("xyz", ["b", "a"]) == "known are a, b."
    assert nearest("xyz", []) == "there are none."
