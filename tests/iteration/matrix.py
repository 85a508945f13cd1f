"""The fault matrix: every failpoint with every fault, in every mode, on every store.

`pytest -s tests/iteration/test_faults.py` prints it.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from unittest.mock import patch

from cloudtask import failpoints
from cloudtask.iteration import RunState, planner, planning
from cloudtask.iteration import list as list_runs
from cloudtask.iteration.bounds import key_of
from cloudtask.iteration.leg import CHECKPOINT
from cloudtask.runs import ShardState
from cloudtask.stores import store
from tests.iteration import tasks
from tests.iteration.models import Effect, Thing
from tests.iteration.tasks import trace
from tests.iteration.world import CREATE_TASK, FAULTS, STAGES, World, fault_at

ROWS, SHARDS = 12, 2
PACE = 1.5  # seconds a row: a checkpoint every second row, two legs a shard
LOST = int(CHECKPOINT // PACE) + 1  # rows since a checkpoint, at most

POINTS = sorted(
    point
    for point in failpoints.POINTS
    if point.partition(".")[0] in ("step", "plan", "shard", "finalize")
    or point in ("execute.received", "execute.before_settle", "execute.settled")
)
PASSAGES = {"plain": (1, 3), "atomic page": (1,), "atomic row": (2,), "parts": (1, 2)}
# How often such a run comes by, without a fault, where that is less than tried above.
ONCE = ("plan.", "finalize.before_lease", "finalize.before_call", "finalize.after_")
TWICE = ("finalize.before_d", "finalize.after_d", "shard.before_c", "shard.after_c")
RELEASES = ("shard.before_release", "shard.after_release")
SENT = {
    "plain": 6,
    "atomic page": 4,
    "atomic row": 6,
    "parts": 6,
}  # calls of CreateTask
ATOMIC = {"plain": None, "atomic page": "page", "atomic row": "row", "parts": None}
# Cases that a plan in several parts adds, or may disturb.
OF_PARTS = ("plan.", "step.", "shard.before_lease", "shard.after_complete", "finalize.")
# With one connection a second delivery would share the first one's transaction.
WITHIN_A_TRANSACTION = (
    "shard.before_checkpoint",
    "shard.after_checkpoint",
    "finalize.before_call",
    "finalize.after_call",
)
# Points after which finalize is called a second time, and committed once.
AFTER_FINALIZE = ("finalize.after_call",)


@dataclass(frozen=True)
class Case:
    mode: str
    point: str
    fault: str
    passage: int

    def __str__(self) -> str:
        return f"{self.mode}, {self.point} ({self.passage}), {self.fault}"

    @property
    def kills(self) -> bool:
        """Tell whether a row may be called again: its process seemed to be killed."""
        return self.fault in ("crash", "delay past the lease")


@dataclass(frozen=True)
class Outcome:
    passages: int
    deliveries: int
    repeats: int
    finals: int


def cases(*modes: str) -> Iterator[Case]:
    """Every point that a run of `modes` passes, every fault, some passages."""
    for mode in modes:
        for point in POINTS:
            # All rows are one page, which is one transaction: nothing to hand over.
            if mode == "atomic page" and point in RELEASES:
                continue
            if mode == "parts" and not point.startswith(OF_PARTS):
                continue
            for fault in FAULTS:
                is_within = ATOMIC[mode] and point in WITHIN_A_TRANSACTION
                if is_within and fault in (
                    "concurrent duplicate",
                    "delay past the lease",
                ):
                    continue
                for passage in _passages(mode, point):
                    yield Case(mode, point, fault, passage)
        for fault in STAGES:
            for passage in range(1, SENT[mode]):
                yield Case(mode, CREATE_TASK, fault, passage)


def _passages(mode: str, point: str) -> list[int]:
    most = 99
    if mode == "parts" and point.startswith("plan."):
        most = 2
    elif point.startswith(ONCE) and "decision" not in point:
        most = 1
    elif (point.startswith(TWICE) and "checkpoint" not in point) or point in RELEASES:
        most = 2
    return sorted({min(passage, most) for passage in PASSAGES[mode]})


# Few rows: of a queryset, or of a list.
SMALL = {
    f"{verb}, {rows} of {SHARDS + 1} shards": (verb, rows)
    for verb in ("iterate", "map")
    for rows in (0, 1, SHARDS)
}


def small_cases() -> Iterator[Case]:
    """Every point and every fault, the first time, with few rows or none."""
    for mode in SMALL:
        yield from (Case(mode, point, fault, 1) for point in POINTS for fault in FAULTS)
        yield from (
            Case(mode, CREATE_TASK, fault, passage)
            for fault in STAGES
            for passage in (1, 2, 3)
        )


def run_small(case: Case) -> Outcome:
    """Walk few rows with the fault of the case; asserts all that must hold."""
    world = World()
    verb, rows = SMALL[case.mode]
    keys = list(range(1, rows + 1))
    Thing.objects.bulk_create(Thing(id=key) for key in keys)
    policy = {"finalize": tasks.finalize, "shards": SHARDS + 1, "keep": True}
    if verb == "map":
        started = tasks.visit_item.map(keys, transactional=False, **policy)
    else:
        everything = Thing.objects.all()
        started = tasks.visit.iterate(everything, transactional=False, **policy)
    with fault_at(world, case.point, case.passage, case.fault) as passed:
        # Without a sweep: no delivery leaves the run without its next one.
        world.drain()
    assert started.state is RunState.FINISHED, started.error
    assert set(trace.rows) == set(keys), "a row was lost"
    assert started.report().done == len(keys)
    assert trace.calls[-1] == "finalize"
    shards = store().load_shards(started.id)
    assert {shard.lease_until for shard in shards} <= {None}
    return Outcome(
        passages=passed[0],
        deliveries=sum(world.deliveries.values()),
        repeats=len(trace.rows) - len(keys),
        finals=trace.calls.count("finalize"),
    )


def run(case: Case) -> Outcome:
    """Walk the things with the fault of the case; asserts all that must hold."""
    world = World()
    keys = list(range(1, ROWS + 1))
    Thing.objects.bulk_create(Thing(id=key) for key in keys)
    trace.pace = PACE
    is_plain = ATOMIC[case.mode] is None
    last = tasks.finalize if is_plain else tasks.finalize_atomically
    tasks.visit.iterate(
        Thing.objects.all(),
        finalize=last,
        shards=SHARDS,
        keep=True,
        transactional=False,
        atomic=ATOMIC[case.mode],
    )
    with (
        planned_in_parts(case.mode == "parts"),
        fault_at(world, case.point, case.passage, case.fault) as passed,
    ):
        world.run()
    _check_rows(case, keys)
    _check_run(keys)
    assert world.waiting == []
    calls = trace.calls.count("finalize")
    return Outcome(
        passages=passed[0],
        deliveries=sum(world.deliveries.values()),
        repeats=len(trace.rows) - len(keys),
        finals=calls,
    )


@contextmanager
def planned_in_parts(wanted: bool) -> Iterator[None]:
    """Let a planner take one step and hand over, whatever there is to plan."""
    if not wanted:
        yield
        return
    with (
        patch.object(planner, "SMALL", 0),
        patch.object(planner.estimates, "by_sample", lambda *_: None),
        patch.object(planning, "PART_TIME", -1.0),
    ):
        yield


def _check_rows(case: Case, keys: list[int]) -> None:
    calls = Counter(trace.rows)
    assert set(calls) == set(keys), "a row was lost"
    if not case.kills and ATOMIC[case.mode] is None:
        assert set(calls.values()) == {1}, "a row ran twice without a crash"
    if ATOMIC[case.mode] is None:
        assert len(trace.rows) - len(keys) <= LOST, "more than a checkpoint was lost"
    else:
        effects = Counter(Effect.objects.values_list("key", flat=True))
        assert effects == Counter({**{str(key): 1 for key in keys}, "finalize": 1})


def _check_run(keys: list[int]) -> None:
    [run] = list_runs()
    assert run.state is RunState.FINISHED, run.error
    assert run.error == ""
    report = run.report()
    assert (report.done, report.failed, report.skipped) == (len(keys), 0, 0)
    first = trace.calls.index("finalize")
    assert set(trace.calls[first:]) == {"finalize"}, "a row ran after finalize"
    assert len(set(trace.calls[:first])) == len(keys), "finalize ran before the rows"
    assert run.failures() == []
    _check_shards(run.id, keys)


def _check_shards(run_id: str, keys: list[int]) -> None:
    """Nothing live is left, and the ranges are disjoint and cover all keys."""
    shards = store().load_shards(run_id)
    assert {shard.state for shard in shards} == {ShardState.DONE}
    assert {shard.lease_until for shard in shards} == {None}
    run = store().load_run(run_id)
    assert run is not None
    assert run.lease_until is None
    shards = [s for n in shards if (s := store().load_shard(run_id, n.index))]
    highs = sorted(key_of(shard.high) for shard in shards)
    lows = sorted(key_of(shard.low) or 0 for shard in shards)
    assert lows == [0, *highs[:-1]]
    assert highs[-1] == keys[-1]


def is_reached(case: Case, outcome: Outcome) -> bool:
    """Tell whether the fault has happened."""
    return outcome.passages >= case.passage


class Table:
    """The outcomes so far, by store and mode."""

    def __init__(self) -> None:
        self.outcomes: dict[tuple[str, str], dict[Case, Outcome]] = defaultdict(dict)

    def __str__(self) -> str:
        return "\n".join(
            line
            for (kept, mode), outcomes in self.outcomes.items()
            for line in self._lines(kept, mode, outcomes)
        )

    def _lines(
        self, kept: str, mode: str, outcomes: dict[Case, Outcome]
    ) -> Iterator[str]:
        faults = [*FAULTS, *STAGES]
        yield f"\n{kept}, {mode}: {len(outcomes)} cases, all rows once in effect"
        yield "cases/fired, rows called again, finalize called again"
        yield f"{'':26}" + "".join(f"{fault:>21}" for fault in faults)
        for point in (*POINTS, CREATE_TASK):
            cells = "".join(
                f"{self._cell(point, fault, outcomes):>21}" for fault in faults
            )
            yield f"{point:26}{cells}"

    @staticmethod
    def _cell(point: str, fault: str, outcomes: dict[Case, Outcome]) -> str:
        here = [
            (case, outcome)
            for case, outcome in outcomes.items()
            if (case.point, case.fault) == (point, fault)
        ]
        if not here:
            return "-"
        fired = sum(is_reached(*one) for one in here)
        repeats = sum(outcome.repeats for _, outcome in here)
        finals = sum(outcome.finals - 1 for _, outcome in here)
        return f"{len(here)}/{fired} +{repeats} +{finals}"
