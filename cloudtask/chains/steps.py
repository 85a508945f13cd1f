"""The rest of a chain as lines of text, which ride behind the call in its payload.

The first line of a payload is the encoded call. A call of a chain has further lines:

    ["then"|"failure", task, queue, options, countdown, takes_value, has_subject]
    the encoded call of that step, without the value that it will be given
    ["group", seconds or null, [the number of lines of each member], is_partial]
    the lines of the members, one after the other; the seconds are those of keep_result

`failure` comes first, and is called for each failure that is kept. Lines are never
decoded before their turn. So each hand-over costs what the next step costs, and a value
is not encoded a second time.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cloudtask import codec
from cloudtask.codec import shapes
from cloudtask.exceptions import PayloadError
from cloudtask.options import Options, options_from_wire

THEN, FAILURE, GROUP = "then", "failure", "group"

_LENIENT = "surrogatepass"  # lone surrogates are in the text of the codec, too

Lines = tuple[bytes, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class CallStep:
    """One later call of a chain; `call` holds its encoded arguments.

    With `takes_value` the value of the step before comes first, or after the subject of
    a method.
    """

    task: str
    queue: str
    wire: Mapping[str, Any] = field(default_factory=dict, repr=False)
    countdown: float = 0.0
    takes_value: bool = True
    has_subject: bool = False
    call: bytes = field(repr=False)

    @property
    def options(self) -> Options:
        return options_from_wire(self.wire, self.queue)

    def lines(self, kind: str = THEN) -> Lines:
        head = [kind, self.task, self.queue, dict(self.wire), self.countdown]
        return codec.dumps([*head, self.takes_value, self.has_subject]), self.call

    def given(self, value: bytes) -> bytes:
        """The encoded call with the encoded value of the step before it."""
        if not self.takes_value:
            return self.call
        start = 2  # behind [[
        text = self.call.decode(errors=_LENIENT)
        if self.has_subject:
            start = json.JSONDecoder().raw_decode(text, start)[1]
            return _spliced(text, start, b"," + value)
        is_empty = text[start] == "]"
        return _spliced(text, start, value if is_empty else value + b",")


def _spliced(text: str, at: int, value: bytes) -> bytes:
    head, tail = text[:at], text[at:]
    return head.encode(errors=_LENIENT) + value + tail.encode(errors=_LENIENT)


@dataclass(frozen=True, slots=True)
class GroupStep:
    """Calls that run side by side; each member is the lines of a chain.

    `keep` is how long the list of their values is kept, in seconds. With `is_partial`,
    failures are values, too.
    """

    members: tuple[Lines, ...]
    keep: float | None = None
    is_partial: bool = False

    def lines(self) -> Lines:
        sizes = [len(member) for member in self.members]
        head = codec.dumps([GROUP, self.keep, sizes, self.is_partial])
        return (head, *(line for member in self.members for line in member))


Step = CallStep | GroupStep


def behind(payload: bytes) -> Lines:
    """The lines that follow the call in a payload."""
    _, newline, rest = payload.partition(b"\n")
    return tuple(rest.split(b"\n")) if newline else ()


def joined(call: bytes, lines: Lines) -> bytes:
    """The payload with the encoded `call` and the rest of its chain."""
    return b"\n".join((call, *lines))


def lines_of(steps: Iterable[Step]) -> Lines:
    return tuple(line for step in steps for line in step.lines())


def split_failure(lines: Lines) -> tuple[CallStep | None, Lines]:
    """The call for failures, if there is one, and the lines that follow it."""
    if lines and _head(lines[0])[0] == FAILURE:
        return _call_step(lines), lines[2:]
    return None, lines


def first(lines: Lines) -> tuple[Step, Lines]:
    """The first step of a rest, and the lines that follow it; raises PayloadError."""
    kind, *rest = _head(lines[0])
    if kind == THEN:
        return _call_step(lines), lines[2:]
    if kind != GROUP:
        raise PayloadError(f"The rest of a chain has a step of kind {kind!r}.")
    keep, listed, is_partial = shapes.parts(rest, 3)
    sizes = [shapes.whole(size) for size in shapes.listed(listed)]
    ends = list(_ends(sizes))
    members = tuple(lines[a:b] for a, b in zip([1, *ends], ends, strict=False))
    step = GroupStep(members, keep, shapes.flag(is_partial))
    return step, lines[ends[-1] if ends else 1 :]


def last(lines: Lines) -> Step | None:
    """The last step of a rest."""
    step: Step | None = None
    _, lines = split_failure(lines)
    while lines:
        step, lines = first(lines)
    return step


def keep_of(lines: Lines) -> float | None:
    """How long the result of the last step is kept, in seconds; None if it is not."""
    step = last(lines)
    if isinstance(step, CallStep):
        kept = step.wire.get("keep_result")
        return None if kept is None else float(kept)
    return step.keep if step else None


def wants_value(lines: Lines) -> bool:
    """Whether the next step is given the value of the one before."""
    _, lines = split_failure(lines)
    if not lines:
        return True
    step, _ = first(lines)
    if isinstance(step, CallStep):
        return step.takes_value
    return any(wants_value(member) for member in step.members)


def is_last(lines: Lines) -> bool:
    """Whether nothing but a call for failures is left."""
    return not split_failure(lines)[1]


def _ends(sizes: Sequence[int]) -> Iterator[int]:
    end = 1
    for size in sizes:
        end += size
        yield end


def _head(line: bytes) -> list[Any]:
    head = shapes.listed(codec.loads(line))
    if not head:
        raise PayloadError("The rest of a chain has a step without a kind.")
    return head


def _call_step(lines: Lines) -> CallStep:
    head = shapes.parts(codec.loads(lines[0]), 7)
    if len(lines) < 2:
        raise PayloadError("The rest of a chain has a step without a call.")
    return CallStep(
        task=shapes.text(head[1]),
        queue=shapes.text(head[2]),
        wire=shapes.named(head[3]),
        countdown=float(head[4]),
        takes_value=shapes.flag(head[5]),
        has_subject=shapes.flag(head[6]),
        call=lines[1],
    )
