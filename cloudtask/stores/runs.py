"""Defines how a store keeps runs: the queries, and every change of a run."""

from __future__ import annotations

import logging
from abc import abstractmethod
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from datetime import timedelta
from functools import partial

from cloudtask import transitions
from cloudtask.runs import IterationCounts, Run, RunState, Shard
from cloudtask.stores.fitting import Unreadable
from cloudtask.stores.pages import Page
from cloudtask.stores.sealing import opened_run
from cloudtask.stores.swaps import Swap, Swaps
from cloudtask.transitions import Moment

logger = logging.getLogger("cloudtask.security")

# The remedy for a run whose values no key of this project opens.
LOST_KEY = (
    "Put the key that the run was started with into SECRET_KEY_FALLBACKS and resume "
    "it, or cancel it and start again."
)

# The remedy for a run with a value that no version of this library has written.
BEGIN_AGAIN = "Look who else writes to the store. Cancel the run, and start again."


class RunStore(Swaps):
    """A store of runs. Every store passes tests/stores/runs_contract.py."""

    @abstractmethod
    def create_run(self, run: Run, *, delay: timedelta | None = timedelta(0)) -> None:
        """Insert `run`, whose plan is due `delay` from now.

        The delay is None if a transaction of another database decides whether the plan
        is ever enqueued.
        """

    @abstractmethod
    def read_run(self, run_id: str) -> Run | None:
        """The run as it is stored, with sealed values."""

    def load_run(self, run_id: str) -> Run | None:
        """The run with this id, if there is one.

        A value that was altered, or copied from another place, is refused: it is empty
        in the run, and a run that has a next step becomes FAILED. So does a run with a
        value that can't be read.
        """
        found = self._readable(run_id)
        if found is None:
            return None
        run, refused = opened_run(found)
        if refused and self.refuse(run, refused):
            found = self.read_run(run_id)
            return opened_run(found)[0] if found else None
        return run

    def _readable(self, run_id: str) -> Run | None:
        try:
            return self.read_run(run_id)
        except Unreadable as error:
            self.fail_unreadable(run_id, f"{error} {BEGIN_AGAIN}")
            logger.error("Iteration %s has failed: %s", run_id, error)
        with suppress(Unreadable):  # its id can't be written anew
            return self.read_run(run_id)
        return None

    @abstractmethod
    def fail_unreadable(self, run_id: str, why: str) -> None:
        """Write neutral values in the place of those that can't be read. The run is
        FAILED for `why` then."""

    def refuse(self, run: Run, why: str, remedy: str = LOST_KEY) -> bool:
        """Change a run with a refused value to FAILED.

        False if the run has no next step that reads the value.
        """
        is_changed = self.change_run(
            run.id,
            to=RunState.FAILED,
            only_from=[RunState.PLANNING, RunState.RUNNING, RunState.FINALIZING],
            generation=run.generation,
            error=f"{why} {remedy}",
        )
        if is_changed:
            logger.error("Iteration %s has failed: %s", run.id, why)
        return is_changed

    @abstractmethod
    def list_runs(self, *, states: Sequence[RunState], limit: int) -> list[Run]:
        """The latest runs in `states`, newest first. No states mean all."""

    @abstractmethod
    def page_runs(
        self,
        *,
        states: Sequence[RunState] = (),
        task: str | None = None,
        before: str | None = None,
        limit: int,
    ) -> Page[Run]:
        """Runs in brief, newest first, from the mark `before` on. No states mean all.

        Brief runs have neither options nor description. A page may have fewer than
        `limit` items although more follow: `next` tells. Raises ValueError for a mark
        that no store has made.
        """

    @abstractmethod
    def count_iterations(self, states: Sequence[RunState]) -> IterationCounts:
        """The number of runs in each of `states`, and of rows in GIVEN_UP of all runs;
        counting may stop at MOST."""

    @abstractmethod
    def summarize_run(self, run_id: str) -> None:
        """Add up the counts of the shards in the run, and delete its shards, failures
        and description. Nothing is changed unless the run is FINISHED."""

    @abstractmethod
    def delete_run(self, run_id: str) -> None:
        """Delete the run, its shards and its failures."""

    @abstractmethod
    def stale_runs(self, *, older_than: timedelta, limit: int) -> list[Run]:
        """Runs whose next task is lost.

        No write has touched them for `older_than`, no lease is live, and any `due_at`
        passed as long ago. And the run itself has a next step:

        * it is WAITING and has a `due_at`, or PLANNING, or FINALIZING;
        * it is CANCELLED or ABORTED, and has no `finished_at`;
        * it is RUNNING, and its plan is not complete or no shard is undone.
        """

    @abstractmethod
    def old_runs(self, older_than: timedelta, limit: int) -> list[str]:
        """Ids of runs that were not written for `older_than`.

        They have ended, or are WAITING without a `due_at`.
        """

    def _change_run(
        self,
        what: str,
        run_id: str,
        transition: Callable[[Run, Moment], Run | None],
        write: Callable[[Swap, Run], object] = lambda swap, run: swap.put_run(run),
    ) -> Run | None:
        """Write the run that `transition` returns; None if it refuses."""
        what = f"{what} iteration {run_id}"

        def changed() -> Run | None:
            return self.changed(what, lambda swap: swap.run(run_id), transition, write)

        try:
            return changed()
        except Unreadable:
            self._readable(run_id)  # which is FAILED from now on
        with suppress(Unreadable):
            return changed()
        return None

    def change_run(
        self,
        run_id: str,
        *,
        to: RunState,
        only_from: Sequence[RunState],
        generation: int | None = None,
        error: str | None = None,
        description: bytes | None = None,
    ) -> bool:
        """Set the state of a run, if it is in one of `only_from` and, when given, has
        `generation`. False, and nothing is written, otherwise.

        RUN_TRANSITIONS must allow the change. `generation` grows by one, `attempts`
        becomes 0, `due_at` None and `waiting` empty. A run that is RUNNING for the
        first time gets `started_at`. `error` and `description` are replaced if given.
        """
        transition = partial(
            transitions.run_changed,
            to=to,
            only_from=only_from,
            generation=generation,
            error=error,
        )

        def write(swap: Swap, run: Run) -> None:
            swap.put_run(run, description)

        return self._change_run("Changing", run_id, transition, write) is not None

    def add_part(
        self,
        run_id: str,
        part: int,
        shards: Sequence[Shard],
        *,
        total: int,
        is_estimated: bool = False,
        rest: str | None = None,
    ) -> bool:
        """Insert the shards of one part of a plan, and count the part in its run.

        Indexes of the shards continue those that exist. `total` is added to that of
        the run, which is an estimate from then on if one part's is. A run that is
        PLANNING is RUNNING then. Without a `rest` the plan is complete.

        False, and nothing is written, unless `part` is the next part of a run whose
        plan is not complete and that has not ended.
        """
        transition = partial(
            transitions.part_added,
            part=part,
            total=total,
            is_estimated=is_estimated,
            rest=rest,
        )

        def write(swap: Swap, run: Run) -> None:
            swap.put_run(run)
            swap.add_shards(run_id, shards)

        return self._change_run("Planning", run_id, transition, write) is not None

    def acquire_run(
        self, run_id: str, *, state: RunState, lease: timedelta, is_call: bool = False
    ) -> Run | None:
        """Take the lease of a run in `state`, and return the run as it is then.

        None if another lease is live. `fence` grows by one, and `attempts` if the lease
        is taken for a call.
        """
        transition = partial(
            transitions.run_leased, state=state, lease=lease, is_call=is_call
        )
        return self._whole(self._change_run("Leasing", run_id, transition))

    def settle_run(
        self,
        run: Run,
        *,
        to: RunState | None,
        error: str | None = None,
        waiting: str = "",
        delay: timedelta | None = None,
    ) -> bool:
        """End the lease of a run, and set its state unless `to` is None.

        A state that ends the run, other than FAILED, sets `finished_at` once. `waiting`
        is replaced, and `error` if it is given. `due_at` becomes `delay` from now if
        that is given, and None with another state. False, and nothing is written, if
        `run.fence` is not the run's any more.
        """
        transition = partial(
            transitions.run_settled,
            fence=run.fence,
            to=to,
            error=error,
            waiting=waiting,
            delay=delay,
        )
        return self._change_run("Settling", run.id, transition) is not None

    def try_finalize(self, run_id: str) -> bool:
        """Change a RUNNING run to FINALIZING if its plan is complete and all of its
        shards are DONE. True for the one caller that made the change.

        This must not share a transaction with `complete`. Two shards that end at once
        would each see the other one undone, and neither would finalize.
        """

        def change(swap: Swap) -> bool:
            run = swap.run(run_id)
            ending = transitions.finalizing(run, swap.moment) if run else None
            if ending is None or swap.has_undone(run_id):
                return False
            swap.put_run(ending)
            return True

        return self.swap(f"Finalizing iteration {run_id}", change)

    def set_pace(
        self, run_id: str, *, leg_limit: float | None, killed_after: float | None
    ) -> None:
        """Store the longest time for legs of the run, and the time after which the
        latest killed leg ended, both in seconds."""

        def paced(run: Run, moment: Moment) -> Run:
            return replace(run, leg_limit=leg_limit, killed_after=killed_after)

        self._change_run("Pacing", run_id, paced)

    def touch_run(self, run_id: str) -> None:
        """Record that the next task of the run exists, so that the run is not stale."""
        self._change_run("Touching", run_id, lambda run, moment: run)

    def bump_run(self, run: Run) -> Run | None:
        """Increase `generation` by one, and return the changed run.

        None if `generation` or the state differ from those of `run`, or while a lease
        is live.
        """
        transition = partial(transitions.run_renumbered, seen=run)
        return self._whole(self._change_run("Renumbering", run.id, transition))

    def _whole(self, run: Run | None) -> Run | None:
        """The run with its values opened, and with its description."""
        found = self.load_run(run.id) if run else None
        if run is None or found is None:
            return None
        return replace(
            run,
            options=found.options,
            description=found.description,
            rest=found.rest,
        )
