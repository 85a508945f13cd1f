"""The errors that tasks raise themselves."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from cloudtask import Retry


@pytest.mark.parametrize(
    ("error", "delay"),
    [
        (Retry(60), 60),
        (Retry(timedelta(minutes=1)), timedelta(minutes=1)),
        (Retry(delay=0), 0),
        (Retry("the service is down", delay=2.5), 2.5),
        (Retry("the service is down"), None),
        (Retry(), None),
    ],
    ids=str,
)
def test_a_delay_may_be_given_by_position_or_by_name(
    error: Retry, delay: timedelta | float | None
) -> None:
    assert error.delay == delay


@pytest.mark.parametrize("delay", ["60", True, [60]], ids=repr)
def test_what_is_no_delay_is_refused(delay: Any) -> None:
    with pytest.raises(TypeError, match="delay of Retry"):
        Retry(delay=delay)


@pytest.mark.parametrize("delay", [-1, float("nan"), float("inf"), timedelta(-1)])
def test_a_delay_that_can_not_be_waited_for_is_refused(delay: Any) -> None:
    with pytest.raises(ValueError, match="delay of Retry"):
        Retry(delay)


def test_one_delay_is_enough() -> None:
    with pytest.raises(TypeError, match="one delay"):
        Retry(60, delay=60)
