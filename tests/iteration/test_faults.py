"""Every failpoint of a run, each with every fault: the invariants hold."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.iteration import matrix
from tests.iteration.matrix import PASSAGES, Case, Table
from tests.stores.datastore_fixtures import KINDS


@pytest.fixture(scope="module")
def table() -> Iterator[Table]:
    table = Table()
    yield table
    print(table)


pytestmark = pytest.mark.exhaustive(sample=16)


def params(*modes: str, most: int = 99) -> list[object]:
    chosen = [case for case in matrix.cases(*modes) if case.passage <= most]
    return [pytest.param(case, id=str(case)) for case in chosen]


def assert_holds(case: Case, kept: str, table: Table) -> None:
    outcome = matrix.run(case)
    table.outcomes[kept, case.mode][case] = outcome
    assert matrix.is_reached(case, outcome), "the fault did not happen"
    if not case.kills and case.point not in matrix.AFTER_FINALIZE:
        assert outcome.finals == 1


@pytest.mark.django_db
@pytest.mark.parametrize("case", params(*PASSAGES))
def test_a_fault_at_any_point_loses_no_row(case, table):
    assert_holds(case, "database", table)


@pytest.mark.parametrize("case", [*params("plain", most=1), *params("parts", most=2)])
@pytest.mark.parametrize("any_store", KINDS, indirect=True)
def test_nor_does_it_on_datastore(any_store, case, table):
    assert_holds(case, any_store, table)


@pytest.mark.parametrize(
    "case", [pytest.param(case, id=str(case)) for case in matrix.small_cases()]
)
def test_nor_does_it_leave_a_run_of_few_rows_without_its_next_task(
    any_store, case, table
):
    outcome = matrix.run_small(case)
    table.outcomes[any_store, case.mode][case] = outcome
    if not case.kills and case.point not in matrix.AFTER_FINALIZE:
        assert outcome.finals == 1
