"""Which calls a task takes: what binding says, also where it is not asked."""

from __future__ import annotations

import inspect

import pytest

from cloudtask.options import Options
from cloudtask.registry import Definition


def nothing(): ...
def one(a): ...
def a_default(a, b=1): ...
def any_number(*a): ...
def a_rest(a, *b, c=1): ...
def a_name(a, *, c): ...
def positions(a, b=1, /, c=2): ...
def names(a, **b): ...
def everything(a, b, /, c, *d, e=2, **f): ...


FUNCTIONS = [
    nothing, one, a_default, any_number, a_rest, a_name, positions, names, everything,
]  # fmt: skip


@pytest.mark.parametrize("count", range(6))
@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda f: f.__name__)
def test_arguments_by_position_are_taken_or_refused_as_by_binding(function, count):
    definition = Definition("path", function, Options())
    try:
        inspect.signature(function).bind(*range(count))
    except TypeError:
        with pytest.raises(TypeError, match="path"):
            definition.check_call(tuple(range(count)), {})
    else:
        definition.check_call(tuple(range(count)), {})
