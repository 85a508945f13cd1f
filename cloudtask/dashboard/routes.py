"""Lists the pages: the model of each, its kind in the admin, path and view."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from django.http import HttpResponse

from cloudtask.dashboard.call_page import call_list
from cloudtask.dashboard.doctor_page import doctor_page
from cloudtask.dashboard.failed_pages import failed_call, failed_list
from cloudtask.dashboard.group_page import group_list
from cloudtask.dashboard.iteration_pages import iteration, iteration_list
from cloudtask.dashboard.other_pages import (
    result,
    result_list,
    task_list,
)
from cloudtask.dashboard.outbox_pages import outbox_list
from cloudtask.dashboard.overview import overview
from cloudtask.dashboard.queue_pages import queue_list
from cloudtask.dashboard.schedule_page import schedule_list

ONE = "<str:key>/change/"
PAST = "<str:key>/history/"


@dataclass(frozen=True, slots=True)
class Route:
    model: str
    kind: str
    path: str
    view: Callable[..., HttpResponse]

    @property
    def name(self) -> str:
        return f"{self.model}_{self.kind}"

    @property
    def folder(self) -> str:
        """The beginning of the path outside of the admin."""
        return "" if self.model == "overview" else f"{self.model}/"


ROUTES = (
    Route("overview", "changelist", "", overview),
    Route("iteration", "changelist", "", iteration_list),
    Route("iteration", "change", ONE, iteration),
    Route("iteration", "history", PAST, iteration),
    Route("failed", "changelist", "", failed_list),
    Route("failed", "change", ONE, failed_call),
    Route("failed", "history", PAST, failed_call),
    Route("outbox", "changelist", "", outbox_list),
    Route("call", "changelist", "", call_list),
    Route("queue", "changelist", "", queue_list),
    Route("task", "changelist", "", task_list),
    Route("schedule", "changelist", "", schedule_list),
    Route("group", "changelist", "", group_list),
    Route("result", "changelist", "", result_list),
    Route("result", "change", ONE, result),
    Route("result", "history", PAST, result),
    Route("doctor", "changelist", "", doctor_page),
)
