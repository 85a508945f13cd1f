"""Whether a call stands in a `with` statement: its next instruction says so.

`with f() as x:` and `f()` look the same to `f`, but not to the compiler: right after
the call, a `with` block loads the methods of what came back. That is the instruction
BEFORE_WITH in CPython 3.11 to 3.13, and COPY, LOAD_SPECIAL in 3.14.
"""

from __future__ import annotations

import dis
from functools import lru_cache
from itertools import pairwise
from types import CodeType, FrameType

_PADDING = {"CACHE", "EXTENDED_ARG", "NOP"}


def opens_block(frame: FrameType) -> bool:
    """Whether what `frame` is calling right now is the subject of a `with`.

    Not so for `stack.enter_context(f())` and for a function that returns `f()`: there
    the call stands on its own.
    """
    return frame.f_lasti in _block_openers(frame.f_code)


@lru_cache(maxsize=512)
def _block_openers(code: CodeType) -> frozenset[int]:
    """The offsets of calls that open a block, from the call to what follows it.

    While a call runs, CPython 3.13 says that its frame is at the call itself, 3.11 and
    3.12 that it is at the last of the cache entries behind it.
    """
    steps = [step for step in dis.get_instructions(code) if step.opname not in _PADDING]
    openers: set[int] = set()
    for place, (call, then) in enumerate(pairwise(steps)):
        if _loads_block_methods([step.opname for step in steps[place + 1 : place + 3]]):
            openers.update(range(call.offset, then.offset, 2))
    return frozenset(openers)


def _loads_block_methods(opnames: list[str]) -> bool:
    return opnames[0] == "BEFORE_WITH" or opnames == ["COPY", "LOAD_SPECIAL"]
