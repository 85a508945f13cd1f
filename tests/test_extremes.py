"""Extreme and misplaced values: each is refused at once, in a short text without it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.test import override_settings

from cloudtask import Retry, task
from cloudtask.exceptions import ConfigurationError, EnqueueError
from tests.support import recording
from tests.testapp.models import Author
from tests.testapp.tasks import note

MARK = "hunter2-marked-secret"
LONG = f"{'a' * 1_000_000}-{MARK}"
VAST = 10**5000  # more digits than Python turns into text
REFUSALS = (TypeError, ValueError, EnqueueError, ConfigurationError)
SHORT = 500  # characters of an error that names task, queue and rule


@task
def visit(row: Any, *args: Any, **kwargs: Any) -> None:
    """A task for each row."""


def nested(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


def holding_itself(value: Any) -> Any:
    value[0:0] = [value]
    return value


@pytest.fixture(autouse=True)
def _recorded() -> Iterator[None]:
    recording.sent.clear()
    given = {"TRANSPORT": {"BACKEND": recording.PATH}}
    with override_settings(CLOUDTASK=given):
        yield


def refused(begin: Callable[[], object]) -> str:
    """The text of the error; nothing was sent."""
    with pytest.raises(REFUSALS) as caught:
        begin()
    assert not recording.sent
    return str(caught.value)


DURATIONS = (1e308, float("inf"), float("nan"), 10**30, VAST, LONG, [MARK], object())
OPTIONS: dict[str, tuple[Any, ...]] = {
    "countdown": (*DURATIONS, timedelta.max, 2_592_001),
    "timeout": (*DURATIONS, 0, -1, timedelta.min),
    "keep_result": (*DURATIONS, 0, -1, timedelta.min),
    "eta": (
        datetime.max.replace(tzinfo=UTC),
        datetime(2030, 1, 1),
        LONG,
        VAST,
    ),
    "max_attempts": (0, -1, 2**31, VAST, True, 2.5, LONG),
    "backoff": (1, LONG, [MARK], VAST),
    "unique": (LONG, [MARK], 7),
    "queue": (LONG, "", "../x", "x\n", "x/y", "\u00e9", VAST),
    "name": (LONG, "", "x\n", "../../queues/other/tasks/x", "\u00e9", [MARK]),
    "database": (LONG, "", [MARK]),
    "service": (LONG, "../x", "a\nb", "", "-a"),
    "version": (LONG, "x.y", "\u00e9"),
    "instance": (LONG, "-1", "a b"),
    "url": (f"/{LONG}", f"https://{LONG}", f"https://x/?t={MARK}", LONG, [MARK]),
    "headers": (
        {LONG: "x"},
        {f"{LONG} ": "x"},
        {f"{LONG}_": "x"},
        {"X-Key": LONG},
        {"X-Key": f"{MARK}\n"},
        {f"X-{number}": "x" for number in range(100_000)},
        [MARK],
    ),
    LONG: (1,),
}


@pytest.mark.parametrize("name", OPTIONS, ids=lambda name: name[:12])
def test_an_option_out_of_all_bounds_is_refused(name: str) -> None:
    for value in OPTIONS[name]:
        text = refused(lambda value=value: note.using(**{name: value}).defer())  # type: ignore[misc]
        assert len(text) < SHORT
        assert MARK not in text


VALUES = {
    "101 levels": lambda: nested(101),
    "a list that holds itself": lambda: holding_itself([1]),
    "34 MB": lambda: "x" * 34_000_000 + MARK,
}


@pytest.mark.parametrize("value", VALUES.values(), ids=VALUES.keys())
def test_an_argument_out_of_all_bounds_is_refused(value: Callable[[], Any]) -> None:
    text = refused(lambda: visit.defer(value()))
    assert len(text) < SHORT
    assert MARK not in text


NUMBERS = (0, -1, True, 2.5, "5", VAST, [MARK], LONG)
POLICIES: dict[str, tuple[Any, ...]] = {
    "shards": (*NUMBERS, 257, 10**9),
    "batch_size": (0, -1, True, 2.5, "5", [MARK]),
    "max_failures": (-1, True, float("nan"), LONG, [MARK]),
    "margin": (-1, LONG, [MARK], VAST),
    "on_error": ("skp", LONG),
    "atomic": ("rows", LONG),
    "args": (MARK, {MARK: 1}, 7),
    "kwargs": ([MARK], MARK),
    "finalize": (MARK, [MARK]),
    "on_failure": (MARK, [MARK]),
    LONG: (1,),
}


@pytest.mark.django_db
@pytest.mark.parametrize("name", POLICIES, ids=lambda name: name[:12])
def test_a_policy_of_an_iteration_out_of_all_bounds_is_refused(name: str) -> None:
    for value in POLICIES[name]:
        given: Any = {name: value}
        text = refused(lambda given=given: visit.iterate(Author.objects.all(), **given))  # type: ignore[misc]
        assert len(text) < SHORT
        if name not in ("on_error", "atomic"):  # their words may be misspelled
            assert MARK not in text


def test_items_that_are_none_are_not_told() -> None:
    class Secret:
        def __repr__(self) -> str:
            return MARK

    assert "Secret" in refused(lambda: visit.map(Secret()))  # type: ignore[call-overload]


@pytest.mark.parametrize(
    "delay", [*DURATIONS, -1, True, MARK], ids=lambda one: type(one).__name__
)
def test_a_retry_out_of_all_bounds_is_refused(delay: Any) -> None:
    text = refused(lambda: Retry(delay=delay))
    assert len(text) < SHORT
    assert MARK not in text
