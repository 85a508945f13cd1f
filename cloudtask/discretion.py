"""Keeps arguments and keys out of error reports and logs.

Error reporters (Django's debug page and error mails, Sentry, rich) show the local
variables of each frame of a traceback. Our frames hold arguments, payloads and keys. So
an error leaves this library with frames of the same place that hold nothing.
"""

from __future__ import annotations

import logging
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator
from datetime import date, timedelta
from functools import lru_cache, wraps
from inspect import iscoroutinefunction
from types import CodeType, FrameType, FunctionType, TracebackType
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")
E = TypeVar("E", bound=BaseException)

_OURS = "cloudtask"
_WRAPPERS: set[CodeType] = set()  # of `discreet`, which tell a reader nothing
# What our frames hand values to. Frames of the project below ours keep theirs.
_BELOW = sys.stdlib_module_names | {
    *("asgiref", "django", "django_tasks", "google", "grpc", "proto", "wrapt"),
    *("psycopg", "pymysql", "MySQLdb", "requests", "urllib3"),
}


def discreet(function: Callable[P, R]) -> Callable[P, R]:
    """A decorator: what the function raises shows no local variable of this library.

    It is for the functions through which errors leave the library.
    """

    @wraps(function)
    def passed(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except BaseException as error:
            emptied(error)
            raise

    @wraps(function)
    async def apassed(*args: P.args, **kwargs: P.kwargs) -> Any:
        try:
            return await function(*args, **kwargs)  # type: ignore[misc]
        except BaseException as error:
            emptied(error)
            raise

    chosen: Any = apassed if iscoroutinefunction(function) else passed
    _WRAPPERS.add(chosen.__code__)
    made: Callable[P, R] = chosen
    return made


def discreetly(items: Iterable[T]) -> Iterator[T]:
    """`items`. What they raise while they are read shows no local variable of this
    library: `discreet` has returned by then."""
    try:
        yield from items
    except BaseException as error:
        emptied(error)
        raise


def emptied(error: E) -> E:
    """`error`, whose traceback and causes hold no local variables of this library."""
    for one in _all_of(error):
        one.__traceback__ = _emptied(one.__traceback__)
    return error


def _all_of(error: BaseException) -> Iterator[BaseException]:
    """The error, its causes and contexts, and the members of groups."""
    met: set[int] = set()
    waiting: list[BaseException | None] = [error]
    while waiting:
        one = waiting.pop()
        if one is None or id(one) in met:
            continue
        met.add(id(one))
        yield one
        waiting += (one.__cause__, one.__context__)
        if isinstance(one, BaseExceptionGroup):
            waiting += one.exceptions


def _emptied(first: TracebackType | None) -> TracebackType | None:
    """The same entries; those of our frames, and of what they called, are replaced."""
    entries: list[tuple[FrameType, int, int]] = []
    is_below = False
    entry = first
    while entry is not None:
        frame, place = entry.tb_frame, (entry.tb_lasti, entry.tb_lineno)
        is_below = _holds_ours(frame, is_below)
        if is_below:
            frame, place = _empty(frame), (0, entry.tb_lineno)
        if entry.tb_frame.f_code not in _WRAPPERS:
            entries.append((frame, *place))
        entry = entry.tb_next
    made = None
    for frame, instruction, line in reversed(entries):
        made = TracebackType(made, frame, instruction, line)
    return made


def _holds_ours(frame: FrameType, is_below: bool) -> bool:
    """Whether the frame is ours, or a library's that one of ours has called."""
    name = str(frame.f_globals.get("__name__"))
    first = name.partition(".")[0]
    return first == _OURS or (is_below and first in _BELOW)


def _empty(frame: FrameType) -> FrameType:
    code = frame.f_code
    return _frame_at(
        str(frame.f_globals.get("__name__")),
        code.co_filename,
        code.co_name,
        code.co_qualname,
        code.co_firstlineno,
    )


@lru_cache(maxsize=4096)
def _frame_at(
    module: str, file: str, name: str, qualname: str, first_line: int
) -> FrameType:
    """A frame that seems to be of this place; it has no variables."""
    code = _frame.__code__
    code = code.replace(
        co_filename=file,
        co_name=name,
        co_qualname=qualname,
        co_firstlineno=first_line,
        co_linetable=_nowhere(len(code.co_code) // 2),
    )
    frame: FrameType = FunctionType(code, {"__name__": module, "sys": sys})()
    return frame


def _frame() -> FrameType:
    return sys._getframe()


def _nowhere(instructions: int) -> bytes:
    """A table of locations without any, so that the line of the entry counts.

    Each byte stands for up to eight instructions: Objects/locations.md of CPython.
    """
    whole, rest = divmod(instructions, 8)
    return bytes([0xFF] * whole + [0xF8 | (rest - 1)] * bool(rest))


# Logs.


def said(value: object, form: Callable[[Any], str] = str) -> str:
    """`str(value)`, or another form; never raises, though an error's `__str__` may."""
    try:
        return form(value)
    except KeyboardInterrupt:
        raise
    except BaseException:  # noqa: BLE001  as the traceback module does
        return f"<exception {form.__name__}() failed>"


def shown(value: object) -> str:
    """How the text of an error names a value that a caller gave.

    A number or a moment is itself, at most 60 characters of it. Anything else is its
    type, since the value may be a secret.
    """
    if value is None or isinstance(value, int | float | timedelta | date):
        return said(value, repr)[:60]
    return type(value).__name__


def printable(text: str) -> str:
    """`text` with control characters escaped: they forge lines and drive terminals."""
    if text.isprintable():
        return text
    return "".join(
        one if one.isprintable() else one.encode("unicode_escape").decode()
        for one in text
    )


def _cleaned(record: logging.LogRecord) -> bool:
    """A filter that passes each record, with nothing in it that should not be there."""
    if isinstance(record.args, tuple):
        # Not the object itself: a handler may show more of it than its text.
        record.args = tuple(
            one if isinstance(one, int | float) else printable(said(one))
            for one in record.args
        )
    if isinstance(record.exc_info, tuple) and record.exc_info[1] is not None:
        kind, error, entries = record.exc_info
        emptied(error)
        record.exc_info = (kind, error, _emptied(entries))
        record.exc_text = as_text(error)
    return True


def as_text(error: BaseException) -> str:
    """The traceback as text, with control characters of what the errors say escaped."""
    whole = traceback.TracebackException.from_exception(error, compact=True)
    waiting: list[Any] = [whole]
    while waiting:
        one = waiting.pop()
        if one is None:
            continue
        one._str = printable(str(one._str))
        if one.__notes__ is not None:
            one.__notes__ = [printable(said(note)) for note in one.__notes__]
        waiting += (one.__cause__, one.__context__, *(one.exceptions or ()))
    return "".join(whole.format()).rstrip("\n")


# Each by its name: a filter does not see the records of the loggers below its own.
logging.getLogger("cloudtask").addFilter(_cleaned)
logging.getLogger("cloudtask.run").addFilter(_cleaned)
logging.getLogger("cloudtask.gauges").addFilter(_cleaned)
logging.getLogger("cloudtask.security").addFilter(_cleaned)
logging.getLogger("cloudtask.audit").addFilter(_cleaned)
logging.getLogger("django.security.cloudtask").addFilter(_cleaned)
