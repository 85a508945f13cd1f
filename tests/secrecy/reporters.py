"""What error reporters show of an error: Django's pages and mails, Sentry, rich."""

from __future__ import annotations

import io
import logging
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import sentry_sdk
from django.test import RequestFactory, override_settings
from django.views.debug import ExceptionReporter
from rich.console import Console
from rich.traceback import Traceback
from sentry_sdk.transport import Transport

from cloudtask.logging import TaskFilter
from tests.carriers import tracing

DSN = "http://key@127.0.0.1:1/1"


def shown(error: BaseException) -> dict[str, str]:
    """The text that each reporter makes of `error`, by its name."""
    return {
        "debug page": _of_django(error, debug=True),
        "error mail": _of_django(error, debug=False),
        "Sentry": _of_sentry(error),
        "rich": _of_rich(error),
    }


def held(error: BaseException) -> Iterator[tuple[str, str]]:
    """What a reporter could show of `error` and its causes: texts, and the variables of
    our frames and of those below, but for frames of tests."""
    waiting: list[BaseException | None] = [error]
    met: set[int] = set()
    while waiting:
        one = waiting.pop()
        if one is None or id(one) in met:
            continue
        met.add(id(one))
        waiting += (one.__cause__, one.__context__)
        yield "text", "".join(traceback.format_exception_only(one))
        is_below = False
        for frame, line in traceback.walk_tb(one.__traceback__):
            module = str(frame.f_globals.get("__name__"))
            is_below = is_below or module.startswith("cloudtask.")
            if is_below and not module.startswith("tests."):
                yield f"{module}:{line}", repr(frame.f_locals)


def _of_django(error: BaseException, *, debug: bool) -> str:
    with override_settings(DEBUG=debug):
        reporter = ExceptionReporter(
            RequestFactory().get("/"), type(error), error, error.__traceback__
        )
        frames = reporter.get_traceback_data()["frames"]
        assert frames
        return reporter.get_traceback_text() + reporter.get_traceback_html()


class _Kept(Transport):
    """A transport of Sentry that keeps the events."""

    def __init__(self, options: Any = None) -> None:
        super().__init__(options)
        self.events: list[str] = []

    def capture_envelope(self, envelope: Any) -> None:
        self.events.append(envelope.serialize().decode())


@contextmanager
def _sentry() -> Iterator[tuple[Any, _Kept]]:
    kept = _Kept()
    # Its scrubber hides variables by their names. Ours must not need it.
    client = sentry_sdk.Client(
        dsn=DSN,
        transport=kept,
        default_integrations=False,
        event_scrubber=None,
    )
    try:
        yield client, kept
    finally:
        client.close(timeout=0)


def _of_sentry(error: BaseException) -> str:
    with _sentry() as (client, kept):
        event, hint = sentry_sdk.utils.event_from_exception(
            error, client_options=client.options
        )
        client.capture_event(event, hint=hint)
    assert kept.events
    return "".join(kept.events)


def _of_rich(error: BaseException) -> str:
    console = Console(file=io.StringIO(), width=5000)
    made = Traceback.from_exception(
        type(error),
        error,
        error.__traceback__,
        show_locals=True,
        locals_max_string=10_000,
        locals_max_length=1000,
    )
    console.print(made)
    text = console.file
    assert isinstance(text, io.StringIO)
    return text.getvalue()


@contextmanager
def telemetry() -> Iterator[list[str]]:
    """What collectors are sent of the block, as texts: spans and metrics of
    OpenTelemetry, transactions and events of Sentry. The list is filled at the end."""
    told: list[str] = []
    tracing.exporter.clear()
    kept = _Kept()
    client = sentry_sdk.Client(
        dsn=DSN, transport=kept, traces_sample_rate=1.0, event_scrubber=None
    )
    try:
        with sentry_sdk.isolation_scope() as scope:
            scope.set_client(client)
            yield told
        client.flush()
    finally:
        client.close(timeout=0)
    finished = tracing.exporter.get_finished_spans()
    assert finished
    assert kept.events
    told += [one.to_json() for one in finished]
    told += [repr(one) for one in finished]
    told += kept.events
    metrics = tracing.reader.get_metrics_data()
    assert metrics is not None
    told.append(metrics.to_json())


class Records(logging.Handler):
    """Every log record of ours and of Django, as handlers may look at it."""

    def __init__(self) -> None:
        super().__init__(level=1)
        self.addFilter(TaskFilter())
        self.texts: list[str] = []
        self.errors: list[BaseException] = []

    def emit(self, record: logging.LogRecord) -> None:
        if not record.name.startswith(("cloudtask", "django")):
            return
        if record.exc_info and record.exc_info[1] is not None:
            self.errors.append(record.exc_info[1])
        self.texts.append(repr(vars(record)))
        self.texts.append(logging.Formatter("%(name)s %(message)s").format(record))


@contextmanager
def recorded() -> Iterator[Records]:
    """What all loggers say inside the block, at every level."""
    records, root = Records(), logging.getLogger()
    level = root.level
    root.addHandler(records)
    root.setLevel(1)
    try:
        yield records
    finally:
        root.setLevel(level)
        root.removeHandler(records)
