"""Carriers as a project writes them, with and without annotations of the library."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext

from cloudtask.carriers import Carrier, Language, Telemetry
from cloudtask.context import TaskContext


class Tenant:
    name = "tenant"

    def capture(self) -> dict[str, str] | None:
        return {"id": "red"}

    @contextmanager
    def restore(
        self, carried: Mapping[str, str] | None, context: TaskContext
    ) -> Iterator[None]:
        yield


class Plain:
    name = "plain"

    def capture(self) -> None:
        return None

    def restore(
        self, carried: Mapping[str, str] | None, context: TaskContext
    ) -> AbstractContextManager[None]:
        return nullcontext()


class Numbers(Plain):
    def capture(self) -> dict[str, int]:  # type: ignore[override]
        return {"id": 7}


class Counter(Telemetry):
    name = "counter"

    def capture(self) -> dict[str, str]:
        return {}


carriers: list[Carrier] = [Tenant(), Plain(), Counter(), Language()]
wrong: Carrier = Numbers()  # type: ignore[assignment]
