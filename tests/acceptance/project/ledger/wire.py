"""Notes every request to the handler: its headers, and the answer."""

from __future__ import annotations

import time
from collections.abc import Callable

from django.http import HttpRequest, HttpResponse

from cloudtask.targets import header
from tests.acceptance.project.ledger.models import Delivery


class WireLog:
    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        received_at = time.time()
        response = self.get_response(request)
        if request.path.startswith("/_cloudtask/run/"):
            Delivery.objects.create(
                task_name=header(request.headers, "TaskName") or "",
                path=request.path,
                headers=dict(request.headers),
                received_at=received_at,
                status=response.status_code,
            )
        return response
