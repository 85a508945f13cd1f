"""Describes the rest of a chain: later steps, and the place in a group."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from typing import Any

from cloudtask import carriers, codec, envelope, quotas
from cloudtask.chains import steps
from cloudtask.chains.steps import FAILURE, CallStep, GroupStep, Lines
from cloudtask.codec import shapes
from cloudtask.exceptions import PayloadTooLarge
from cloudtask.message import Carried, Message
from cloudtask.options import Options

EMPTY_LIST = b"[]"


def id_of(owner: str, *parts: object) -> str:
    """The id of a call that follows from another one, and its Cloud Tasks name.

    It is the same however often the call is made, so only one task is made.
    """
    text = ":".join([owner, *map(str, parts)])
    return hashlib.sha256(text.encode()).hexdigest()[:32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Rest:
    """The lines of the next steps of `chain`, the first of which has `place`.

    The value of the last step goes to `member` of `group`, if there is a group. `keep`
    is how long that of a group that ends a chain is kept, in seconds. `root` is the
    outermost chain, if that is another one; `exact` is as in a message.
    """

    chain: str
    place: int
    lines: Lines = field(repr=False)
    group: str | None = None
    member: int = 0
    keep: float | None = None
    root: str | None = None
    exact: bool = False
    carried: Carried = field(default=Carried(), repr=False)

    @property
    def is_over(self) -> bool:
        """Whether no step is left."""
        return steps.is_last(self.lines)

    def next_call(
        self, step: CallStep, value: bytes, after: Lines, now: float
    ) -> Message:
        """The message of the next step, which is given the encoded `value`."""
        failure, _ = steps.split_failure(self.lines)
        kept = (*(failure.lines(FAILURE) if failure else ()), *after)
        is_last = not after and self.group is None
        call = step.given(value)
        key = self.chain if is_last else self.next_id
        made = message_of(step, key, steps.joined(call, kept), now, self.carried)
        return checked(
            replace(
                made,
                chain=self.chain,
                place=self.place,
                group=self.group,
                member=self.member,
                root=self.root,
                exact=self.exact,
            )
        )

    @property
    def next_id(self) -> str:
        return id_of(self.chain, self.place)

    def after_group(self, step: GroupStep, after: Lines) -> Rest:
        """The steps after the group that is the next step; they get its list."""
        failure, _ = steps.split_failure(self.lines)
        kept = (*(failure.lines(FAILURE) if failure else ()), *after)
        return replace(self, place=self.place + 1, lines=kept, keep=step.keep)

    def member_rest(self, index: int, member: Lines) -> Rest:
        """The first call of member `index` of the group that is the next step.

        It has the call for failures of this chain, unless it has one of its own.
        """
        failure, _ = steps.split_failure(self.lines)
        own, _ = steps.split_failure(member)
        if failure is not None and own is None:
            member = (*failure.lines(FAILURE), *member)
        return Rest(
            chain=id_of(self.next_id, "member", index),
            place=0,
            lines=member,
            group=self.next_id,
            member=index,
            root=self.root or self.chain,
            exact=self.exact,
            carried=self.carried,
        )


def queue_of(rest: Rest) -> str:
    """The queue of the next call; a group that comes next tells none."""
    _, lines = steps.split_failure(rest.lines)
    while lines:
        step, lines = steps.first(lines)
        if isinstance(step, CallStep):
            return step.queue
        lines = next((m for m in step.members if m), lines)
        _, lines = steps.split_failure(lines)
    return Options().queue


def message_of(
    step: CallStep, key: str, payload: bytes, now: float, before: Carried
) -> Message:
    """The message of a step under the id `key`, which carries the context `before`."""
    carried = carriers.following(before)
    return Message(
        id=key,
        task=step.task,
        queue=step.queue,
        name=key,
        payload=payload,
        created=now,
        eta=now + step.countdown if step.countdown else None,
        options=step.options,
        carried=carried.project,
        telemetry=carried.telemetry,
    )


def checked(message: Message) -> Message:
    """`message`; raises PayloadTooLarge for one with too large a value or rest."""
    if len(message.payload) > quotas.PAYLOAD:
        raise PayloadTooLarge(
            f"Task {message.task} ({message.id}) of chain {message.chain} was refused: "
            f"its value and the rest of the chain take {len(message.payload):,} bytes, "
            f"more than {quotas.PAYLOAD:,}. Pass the id of the large object."
        )
    return message


def rest_of(message: Message, payload: bytes) -> Rest | None:
    """The rest of a call's chain; None outside of chains and groups."""
    if message.chain is None:
        return None
    return Rest(
        chain=message.chain,
        place=message.place + 1,
        lines=steps.behind(payload),
        group=message.group,
        member=message.member,
        root=message.root,
        exact=message.exact,
        carried=Carried(message.carried, message.telemetry),
    )


def _place(group: str, total: int, *, is_partial: bool) -> envelope.Place:
    """Where the rest lies. The number of members is sealed with it: with fewer, the
    rest would be given a part of the values. So is whether it takes failures."""
    which = "or failures of " if is_partial else ""
    return "group", group, f"rest of {which}{total} members"


def sealed(rest: Rest, group: str, total: int, *, is_partial: bool = False) -> bytes:
    """`rest` as the record of `group`, which has `total` members, keeps it."""
    values = [rest.chain, rest.place, rest.group, rest.member, rest.keep]
    text = [line.decode(errors="surrogatepass") for line in rest.lines]
    carried = [rest.carried.project, rest.carried.telemetry]
    data = codec.dumps([*values, carried, text, rest.root, rest.exact])
    place = _place(group, total, is_partial=is_partial)
    return envelope.seal_value(data, place=place)


def unsealed(data: bytes, group: str, total: int, *, is_partial: bool = False) -> Rest:
    """The reverse of `sealed`; raises BadSignature for what another group keeps."""
    place = _place(group, total, is_partial=is_partial)
    opened = codec.loads(envelope.unseal_value(data, place=place))
    values: list[Any] = shapes.parts(opened, 9)
    return Rest(
        chain=shapes.text(values[0]),
        place=shapes.whole(values[1]),
        group=shapes.text_or_none(values[2]),
        member=shapes.whole(values[3]),
        keep=values[4],
        carried=Carried(*shapes.texts(values[5])),
        lines=tuple(
            line.encode(errors="surrogatepass") for line in shapes.texts(values[6])
        ),
        root=shapes.text_or_none(values[7]),
        exact=shapes.flag(values[8]),
    )
