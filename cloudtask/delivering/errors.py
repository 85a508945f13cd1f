"""Makes what a function raised fit for logs and stores."""

from __future__ import annotations

from cloudtask.discretion import emptied
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


def summary(error: BaseException) -> str:
    """The name and text of an error, and its notes; never raises."""
    kind = type(error)
    is_builtin = kind.__module__ == "builtins"
    name = kind.__qualname__ if is_builtin else f"{kind.__module__}.{kind.__qualname__}"
    try:
        text = str(error)
    except Exception:  # noqa: BLE001  as the traceback module does
        text = "<exception str() failed>"
    notes = [str(note) for note in getattr(error, "__notes__", ())]
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
