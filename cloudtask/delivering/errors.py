"""Makes what a function raised fit for logs and stores."""

from __future__ import annotations

import hashlib
import sys
import traceback
from types import FrameType

from cloudtask.discretion import emptied, said
from cloudtask.exceptions import WorkerAborted
from cloudtask.failpoints import Crashed

# What ends the process, or stands for its end; all else is a failed attempt.
UNCAUGHT = (KeyboardInterrupt, Crashed)


LONGEST = 20_000  # characters of a traceback or of arguments that are stored


def storable(text: str) -> str:
    """`text` without lone surrogates and NUL, which some databases refuse."""
    clean = text.encode("utf-8", "backslashreplace").decode()
    return clean.replace("\0", "\\x00")


def explained(error: BaseException, note: str | None = None) -> BaseException:
    """The error as an attempt has it: with a note, and no values in our own frames."""
    if is_abort(error):
        error = _aborted(error)
    if note is not None:
        error.add_note(note)
    return emptied(error)


def kind_of(error: BaseException) -> str:
    """The import path of the error's class; the name alone of a builtin."""
    kind = type(error)
    is_builtin = kind.__module__ == "builtins"
    return kind.__qualname__ if is_builtin else f"{kind.__module__}.{kind.__qualname__}"


def group_of(task: str, error: BaseException) -> str:
    """A digest that failures have in common which probably have one cause.

    Made of the task, the kind of the error, and the innermost function of the project
    in its traceback. The message does not count, since it often quotes a value, and no
    line either, since a deploy moves it.
    """
    place = f"{task}\n{kind_of(error)}\n{_innermost(error)}"
    return hashlib.sha256(place.encode("utf-8", "backslashreplace")).hexdigest()[:32]


def _innermost(error: BaseException) -> str:
    """Module and function of the project where the error arose, if any, else of a
    library."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    own = [frame for frame in frames if _is_of_project(frame)] or frames
    if not own:
        return ""
    module = own[-1].f_globals.get("__name__")
    return f"{module}.{own[-1].f_code.co_qualname}"


def _is_of_project(frame: FrameType) -> bool:
    first = str(frame.f_globals.get("__name__")).partition(".")[0]
    is_library = first in sys.stdlib_module_names or first == "cloudtask"
    return not is_library and "site-packages" not in frame.f_code.co_filename


def summary(error: BaseException) -> str:
    """The name and text of an error, and its notes; never raises."""
    name = kind_of(error)
    text = said(error)
    notes = getattr(error, "__notes__", None)
    notes = map(said, notes) if isinstance(notes, list | tuple) else ()
    return "\n".join([f"{name}: {text}" if text else name, *notes])


def is_abort(error: BaseException) -> bool:
    """Whether gunicorn's handler of SIGABRT, in its workers/base.py, raised `error`."""
    if not isinstance(error, SystemExit) or error.__traceback__ is None:
        return False
    trace = error.__traceback__
    while trace.tb_next is not None:
        trace = trace.tb_next
    module = str(trace.tb_frame.f_globals.get("__name__"))
    return module.startswith("gunicorn.") and "abort" in trace.tb_frame.f_code.co_name


def _aborted(error: BaseException) -> WorkerAborted:
    aborted = WorkerAborted(
        "gunicorn ended this worker: a request took longer than its --timeout. The "
        "traceback shows where the task was. Give gunicorn a longer --timeout than the "
        "task's own, or do less in a task."
    )
    aborted.__cause__ = error
    return aborted.with_traceback(error.__traceback__)
