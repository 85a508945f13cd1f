"""Shows the chains and groups of a test run as trees."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cloudtask.chains.rest import id_of
from cloudtask.message import Message

if TYPE_CHECKING:
    from cloudtask.testruns.report import ReportedAttempt

LISTED = 10  # members of a group
Step = tuple[str, int]  # the id of a chain, and a place in it


@dataclass(slots=True)
class ReportedWorkflow:
    """A chain or a group of which a call was delivered; `id` is that of its receipt.

    As text it is a tree. Steps of a chain and members of a group are counted from 1.
    """

    id: str
    attempts: list[ReportedAttempt] = field(default_factory=list)
    _steps: dict[Step, list[ReportedAttempt]] = field(default_factory=dict, repr=False)
    _groups: dict[str, set[int]] = field(default_factory=dict, repr=False)

    def note(self, message: Message, attempt: ReportedAttempt) -> None:
        self.attempts.append(attempt)
        step = (str(message.chain), message.place)
        self._steps.setdefault(step, []).append(attempt)
        if message.group is not None:
            self._groups.setdefault(message.group, set()).add(message.member)

    def __str__(self) -> str:
        what = "group" if self._is_group(id_of(self.id, 0)) else "chain"
        return "\n".join([f"{what} {self.id}", *self._of_chain(self.id, "    ")])

    def _is_group(self, key: str) -> bool:
        return key in self._groups or any(self._inner(key))

    def _inner(self, key: str) -> Iterator[int]:
        """The members of a group that begin with a group themselves."""
        for member in range(LISTED):
            if id_of(id_of(key, "member", member), 0) in self._groups:
                yield member

    def _of_chain(self, chain: str, indent: str) -> Iterator[str]:
        place, missing = 0, 0
        while missing < 2:  # an empty group leaves a place without calls
            calls, group = self._steps.get((chain, place)), id_of(chain, place)
            missing = 0 if calls or self._is_group(group) else missing + 1
            if calls:
                yield f"{indent}{place + 1}. {_line(calls)}"
            if self._is_group(group):
                yield f"{indent}{place + 1}. group"
                yield from self._of_group(group, indent + "    ")
            place += 1

    def _of_group(self, key: str, indent: str) -> Iterator[str]:
        members = sorted(self._groups.get(key, set()) | {*self._inner(key)})
        for member in members[:LISTED]:
            chain = id_of(key, "member", member)
            lines = list(self._of_chain(chain, ""))
            if len(lines) == 1:
                lines = [lines[0].partition(". ")[2]]
            yield f"{indent}[{member + 1}] {lines[0]}"
            yield from (f"{indent}    {line}" for line in lines[1:])
        if len(members) > LISTED:
            yield f"{indent}... and {len(members) - LISTED} more members"


def _line(attempts: list[ReportedAttempt]) -> str:
    """A call with the outcomes of its attempts."""
    last = attempts[-1]
    outcomes = ", ".join(one.outcome.value for one in attempts)
    error = f": {last.error!r}" if last.error is not None else ""
    return f"{last.task} {outcomes}{error}"
