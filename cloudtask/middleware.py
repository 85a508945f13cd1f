"""Tells code whether it runs in a delivery: see `environment`."""

from __future__ import annotations

from collections.abc import Callable

from django.http import HttpRequest, HttpResponseBase

from cloudtask import environment
from cloudtask.targets.guards import is_task_request


def task_environment_middleware(
    get_response: Callable[[HttpRequest], HttpResponseBase],
) -> Callable[[HttpRequest], HttpResponseBase]:
    """Make the functions of `cloudtask.environment` answer for the request."""

    def middleware(request: HttpRequest) -> HttpResponseBase:
        with environment.of_request(request, is_task=is_task_request(request)):
            return get_response(request)

    return middleware
