"""Large matrices of cases: all of them with --exhaustive, a sample elsewhere.

    @pytest.mark.exhaustive(sample=8)  # every eighth case; all with --exhaustive
    @pytest.mark.exhaustive            # no case; all with --exhaustive

`--few=2` takes two cases of each test: the first and one of the middle. It is for runs
that look for what another version of Python or Django changes.

`--exhaustive` leaves out the tests without the mark. Hypothesis tries the same few
examples each time, and many new ones with `--exhaustive`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

OPTION = "--exhaustive"
FEW = "--few"
MARK = "exhaustive"

# How fast examples are made depends on the machine and on what else it does.
settings.register_profile(
    "steady", deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
steady = settings.get_profile("steady")
settings.register_profile("sample", steady, max_examples=40, derandomize=True)
settings.register_profile("exhaustive", steady, max_examples=600)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        OPTION,
        action="store_true",
        help="run the tests marked exhaustive, with all their cases, and no others",
    )
    parser.addoption(FEW, type=int, help="take so many cases of each test at most")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line(
        "markers",
        f"{MARK}(sample=None): a large matrix of cases; see tests/support/sampling.py",
    )
    settings.load_profile("exhaustive" if config.getoption(OPTION) else "sample")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(
    config: pytest.Config, items: list[pytest.Item]
) -> None:
    """Choose before the order of the tests is shuffled."""
    is_chosen = _is_exhaustive if config.getoption(OPTION) else _sampler()
    chosen = {item for item in items if is_chosen(item)}
    if few := config.getoption(FEW):
        chosen = set(_few([item for item in items if item in chosen], few))
    config.hook.pytest_deselected(items=[item for item in items if item not in chosen])
    items[:] = [item for item in items if item in chosen]


def _is_exhaustive(item: pytest.Item) -> bool:
    return item.get_closest_marker(MARK) is not None


def _sampler():
    """Whether a test is in the sample; the tests are asked for in order."""
    seen: Counter[str] = Counter()

    def is_in_sample(item: pytest.Item) -> bool:
        mark = item.get_closest_marker(MARK)
        if mark is None:
            return True
        every = mark.kwargs.get("sample")
        test = item.nodeid.partition("[")[0]
        seen[test] += 1
        return every is not None and seen[test] % every == 1 % every

    return is_in_sample


def _few(items: list[pytest.Item], most: int) -> Iterator[pytest.Item]:
    """Some cases of each test, as far from one another as they can be."""
    cases: dict[str, list[pytest.Item]] = {}
    for item in items:
        cases.setdefault(item.nodeid.partition("[")[0], []).append(item)
    for several in cases.values():
        count = min(most, len(several))
        yield from (several[n * len(several) // count] for n in range(count))


@pytest.fixture
def one_in(pytestconfig: pytest.Config):
    """Takes every n-th of some cases, or with --exhaustive all."""

    def one_in(every: int, cases: list) -> list:
        return cases if pytestconfig.getoption(OPTION) else cases[::every]

    return one_in
