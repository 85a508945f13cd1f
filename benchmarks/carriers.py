"""Measures what carriers and telemetry add to an enqueue and to a delivery."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any

from django.test import override_settings
from django.utils import translation

from benchmarks import tasks
from benchmarks.harness import Budget, Case, Effort, Results, Scenario
from benchmarks.project import MEMORY, cloudtask_settings
from benchmarks.results import TIME
from cloudtask import carriers, envelope, runtime
from cloudtask.message import Delivery
from cloudtask.transports import memory

CALLS = 1000
LANGUAGE = "cloudtask.carriers.Language"
KINDS = {
    "without carriers": (),
    "with a carrier of the language": (LANGUAGE,),
    "with OpenTelemetry, no SDK": ("benchmarks.carriers.without_sdk",),
    "with OpenTelemetry, SDK without exporter": ("benchmarks.carriers.with_sdk",),
}
OFF = "the look whether carriers are on, in a loop"
LOOP = "the loop alone"


def __getattr__(name: str) -> Any:
    """The tracing carriers, made when the settings name them."""
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader
    from opentelemetry.sdk.trace import TracerProvider

    from cloudtask.contrib.opentelemetry import Trace

    if name == "without_sdk":
        return Trace()
    if name == "with_sdk":
        meters = MeterProvider([InMemoryMetricReader()])
        return Trace(tracer_provider=TracerProvider(), meter_provider=meters)
    raise AttributeError(name)


def scenario(effort: Effort) -> Scenario:
    without = partial(_carrying, ())
    cases = [
        Case(OFF, _look, CALLS * 100, without),
        Case(LOOP, _loop, CALLS * 100, without),
    ]
    for name, paths in KINDS.items():
        around = partial(_carrying, paths)
        cases.append(Case(f"defer, {name}", _defer, CALLS, around))
    for name, paths in KINDS.items():
        run, prepared = _execution(paths)
        cases.append(Case(f"execute, {name}", run, CALLS, prepared))
    return Scenario(
        title="Carriers: enqueue and execute one no-op call, transport stubbed",
        cases=cases,
        budgets=[Budget("the look when carriers are off", _off, 20, " ns", TIME)],
        about="Carriers take context along, and OpenTelemetry makes spans.",
        baseline="defer, without carriers",
    )


def _off(results: Results) -> float:
    return (results[OFF].best - results[LOOP].best) * 1e9


def _loop() -> None:
    for _ in range(CALLS * 100):
        pass


def _look() -> None:
    for _ in range(CALLS * 100):
        if not carriers.state.is_off:
            raise AssertionError


@contextmanager
def _carrying(paths: tuple[str, ...]) -> Iterator[None]:
    with (
        override_settings(CLOUDTASK=cloudtask_settings(CARRIERS=paths)),
        translation.override("en"),
    ):
        carriers.chosen()
        yield


def _defer() -> None:
    for number in range(CALLS):
        tasks.ours_small.defer(number, template="rich")


def _execution(
    paths: tuple[str, ...],
) -> tuple[Callable[[], None], Callable[[], AbstractContextManager[None]]]:
    """A function that executes one message `CALLS` times, with these carriers."""
    held: list[Any] = []

    def run() -> None:
        [message] = held
        for _ in range(CALLS):
            runtime.execute(message, Delivery())

    @contextmanager
    def prepared() -> Iterator[None]:
        with _carrying(paths):
            with override_settings(
                CLOUDTASK=cloudtask_settings(CARRIERS=paths, TRANSPORT=MEMORY)
            ):
                tasks.ours_small.defer(7, template="rich")
                entry = memory.queue().pop()
            assert entry is not None
            held[:] = [envelope.unseal(entry.body, now=0.0)]
            carriers.chosen()
            yield

    return run, prepared
