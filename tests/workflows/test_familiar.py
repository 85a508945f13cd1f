"""Spellings of other libraries for workflows: each error says what to write."""

from __future__ import annotations

from copy import copy, deepcopy
from typing import Any

import pytest

from cloudtask import chain, group
from tests.workflows import tasks

ONE: Any = tasks.give.s(1)
CHAIN: Any = chain(ONE, tasks.give.s())
GROUP: Any = group([ONE])
KINDS = pytest.mark.parametrize("made", [ONE, CHAIN, GROUP], ids=repr)


@KINDS
def test_the_operator_of_celery_names_chain(made: Any) -> None:
    with pytest.raises(
        TypeError, match=r"has no operator \|: write chain\(.+, \.{3}\)"
    ):
        made | ONE
    with pytest.raises(
        TypeError, match=r"has no operator \|: write chain\(\.{3}, .+\)"
    ):
        tasks.give | made


@KINDS
def test_a_call_names_defer(made: Any) -> None:
    with pytest.raises(TypeError, match=r"can't be called: .*write .+\.defer\(\)"):
        made()


@KINDS
@pytest.mark.parametrize("name", ["apply", "apply_async", "delay", "enqueue", "send"])
def test_a_foreign_start_names_defer(made: Any, name: str) -> None:
    with pytest.raises(AttributeError, match=rf"no '{name}': .*write .+\.defer\(\)"):
        getattr(made, name)


@pytest.mark.parametrize("made", [CHAIN, GROUP], ids=repr)
@pytest.mark.parametrize("name", ["link", "link_error"])
def test_a_foreign_link_names_chain(made: Any, name: str) -> None:
    with pytest.raises(AttributeError, match=r"write chain\(.+\), with on_failure="):
        getattr(made, name)


@KINDS
def test_foreign_options_name_using(made: Any) -> None:
    with pytest.raises(AttributeError, match=r"\.using\(\.{3}\)"):
        made.set(queue="slow")


@KINDS
def test_any_other_name_is_refused_as_usual(made: Any) -> None:
    with pytest.raises(AttributeError, match=r"has no attribute 'nothing'$"):
        _ = made.nothing
    assert repr(deepcopy(copy(made))) == repr(made)


@pytest.mark.parametrize("parts", [[ONE, ONE], (ONE,), iter([ONE])], ids=type)
def test_a_list_of_steps_is_given_one_by_one(parts: Any) -> None:
    with pytest.raises(TypeError, match=r"one by one.* write chain\(\*steps\)"):
        chain(parts)


def test_lists_as_members_are_given_one_by_one() -> None:
    members: Any = [ONE]
    with pytest.raises(TypeError, match=r"one by one.* write group\(\*members\)"):
        group(members, members)
