"""Finds chains and groups that wait as a whole, and compares them with others."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from unittest.mock import ANY

from cloudtask import codec
from cloudtask.chains import steps
from cloudtask.chains.handing import HAND_ON
from cloudtask.chains.rest import id_of, unsealed
from cloudtask.chains.steps import FAILURE, CallStep, GroupStep, Lines
from cloudtask.message import Message
from cloudtask.options import OPTIONS
from cloudtask.sending import payloads
from cloudtask.stores import AlreadyDone, store
from cloudtask.testruns.expectations import flat, same
from cloudtask.workflows import Chain, Group, Signature
from cloudtask.workflows.enqueueing import chosen

__tracebackhide__ = True  # pytest ends at the line of the test

Whole = Chain[Any, Any] | Group[Any]


@dataclass(frozen=True, slots=True)
class Found:
    """A chain or a group of which nothing has run; `first` are its first messages."""

    lines: Lines
    first: tuple[Message, ...]


def found(messages: Iterable[Message]) -> list[Found]:
    """The chains and groups that `messages` begin, in their order."""
    firsts: dict[str, dict[str, Message]] = {}
    for message in messages:
        if message.chain is not None and message.place == 0 and message.whole:
            firsts.setdefault(message.whole, {})[message.chain] = message
    made = []
    for key, of_chain in firsts.items():
        lines = _lines(key, of_chain)
        if lines is not None:
            made.append(Found(lines, tuple(of_chain.values())))
    return made


def _lines(key: str, firsts: dict[str, Message]) -> Lines | None:
    """The lines of a chain from its first messages; None if a part has run."""
    message = firsts.get(key)
    if message is None:
        return _lines_of_group(id_of(key, 0), firsts)
    try:
        payload = payloads.payload_of(message)
    except AlreadyDone:
        return None
    failure, after = steps.split_failure(steps.behind(payload))
    first: CallStep | GroupStep = GroupStep(())
    if message.task != HAND_ON:  # which stands for a group without members
        first = CallStep(
            task=message.task,
            queue=message.queue,
            wire=message.options.travelling,
            takes_value=False,
            call=payload.partition(b"\n")[0],
        )
    return (*_of_failure(failure), *first.lines(), *after)


def _lines_of_group(key: str, firsts: dict[str, Message]) -> Lines | None:
    group = store().load_group(key)
    if group is None or group.is_done:
        return None
    rest = unsealed(group.rest, key, group.total, is_partial=group.is_partial)
    failure, after = steps.split_failure(rest.lines)
    inherited = _of_failure(failure)
    members = []
    for index in range(group.total):
        member = _lines(id_of(key, "member", index), firsts)
        if member is None:
            return None
        # A member has the call for failures of the chain around it.
        is_own = not inherited or member[: len(inherited)] != inherited
        members.append(member if is_own else member[len(inherited) :])
    step = GroupStep(tuple(members), rest.keep, group.is_partial)
    return (*inherited, *step.lines(), *after)


def _of_failure(step: CallStep | None) -> Lines:
    return step.lines(FAILURE) if step else ()


# Comparing


def differences(tree: Any, lines: Lines) -> list[str]:
    """The differences between lines and the expected tree; few of them if it is another
    one altogether."""
    return list(_of_tree(chosen(tree), lines, "", given=False, failure=None))


def _of_tree(
    tree: Any, lines: Lines, where: str, *, given: bool, failure: Signature | None
) -> Iterator[str]:
    is_call = isinstance(tree, Signature)
    expected = failure if is_call else tree.on_failure or failure
    there, lines = steps.split_failure(lines)
    if (expected is None) is not (there is None):
        yield f"{where}on_failure: {_told(there)} instead of {expected}"
    elif expected is not None and there is not None:
        yield from _of_call(expected, there, f"{where}on_failure: ", given=True)
    is_chain = not is_call and tree.is_chain
    parts: Sequence[Any] = tree.parts if is_chain else (tree,)
    for index, part in enumerate(parts):
        here = f"{where}step {index + 1}: " if is_chain else where
        if not lines:
            yield f"{here}nothing instead of {part!r}"
            return
        step, lines = steps.first(lines)
        is_given = given or index > 0
        own = part.on_failure if is_chain and isinstance(part, Group) else None
        yield from _of_part(part, step, here, given=is_given, failure=own)
    if lines:
        yield f"{where}{_told(steps.first(lines)[0])} follows"


def _of_part(
    part: Any,
    step: CallStep | GroupStep,
    where: str,
    *,
    given: bool,
    failure: Signature | None,
) -> Iterator[str]:
    if isinstance(part, Signature) and isinstance(step, CallStep):
        yield from _of_call(part, step, where, given=given)
        return
    if isinstance(part, Signature) or isinstance(step, CallStep):
        yield f"{where}{_told(step)} instead of {part!r}"
        return
    if len(part.parts) != len(step.members):
        yield f"{where}{len(step.members)} members instead of {len(part.parts)}"
        return
    if part.parts and part.policy.partial != step.is_partial:
        yield f"{where}partial={step.is_partial} instead of {part.policy.partial}"
    for index, (member, lines) in enumerate(zip(part.parts, step.members, strict=True)):
        here = f"{where}member {index + 1}: "
        yield from _of_tree(member, lines, here, given=given, failure=failure)


def _of_call(
    wanted: Signature, step: CallStep, where: str, *, given: bool
) -> Iterator[str]:
    definition = wanted.definition
    takes_value = given and not wanted.is_immutable
    if step.task != definition.path or step.takes_value != takes_value:
        yield f"{where}{_told(step)} instead of {wanted!r}"
        return
    # The value of the step before is not known yet.
    count = len(wanted.subject)
    value = (ANY,) if takes_value else ()
    args, kwargs = codec.loads_call(step.call)
    bind = definition.signature.bind_partial
    there = bind(*args[:count], *value, *args[count:], **kwargs)
    there.apply_defaults()
    is_there = flat(there)
    arguments = bind(*wanted.subject, *value, *wanted.args, **wanted.kwargs)
    for name, one in flat(arguments).items():
        if name not in is_there or not same(one, is_there[name]):
            yield f"{where}{name}={is_there.get(name)!r} instead of {one!r}"
    yield from _of_options(wanted, step, where)


def _of_options(wanted: Signature, step: CallStep, where: str) -> Iterator[str]:
    for option in OPTIONS.values():
        one = getattr(wanted.options, option.name)
        if one == getattr(wanted.definition.options, option.name):
            continue  # `using()` has not chosen it
        there = getattr(step.options, option.name)
        if (option.travels or option.name == "queue") and one != there:
            yield f"{where}{option.name}={there!r} instead of {one!r}"


def _told(step: CallStep | GroupStep | None) -> str:
    if isinstance(step, GroupStep):
        return f"a group of {len(step.members)}"
    if step is None:
        return "None"
    return f"<{step.task}.{'s' if step.takes_value else 'si'}(...)>"
