"""How the tests talk to the site: JSON in, JSON out."""

from __future__ import annotations

import json
from typing import Any

from django.db import transaction
from django.forms.models import model_to_dict
from django.http import HttpRequest, JsonResponse
from django.views.decorators.csrf import csrf_exempt

from cloudtask import Enqueued, Task, call
from cloudtask.exceptions import DuplicateTask
from cloudtask.models import FailedTask, OutboxMessage, Payload
from tests.acceptance.project.ledger import tasks
from tests.acceptance.project.ledger.models import Delivery, Entry

FAILED = ("key", "name", "error", "traceback", "attempts")


class ChangeOfMind(Exception):
    """Rolls a transaction back."""


def _asked(request: HttpRequest) -> tuple[Task[..., None], dict[str, Any]]:
    asked = json.loads(request.body)
    return getattr(tasks, asked.pop("task")), asked


def _receipt(enqueued: Enqueued) -> dict[str, str]:
    return {"id": enqueued.id, "name": enqueued.name, "queue": enqueued.queue}


@csrf_exempt
def defer(request: HttpRequest) -> JsonResponse:
    task, asked = _asked(request)
    try:
        enqueued = task.using(**asked.get("options", {})).defer(*asked["args"])
    except DuplicateTask as error:
        return JsonResponse({"error": str(error)}, status=409)
    return JsonResponse(_receipt(enqueued))


@csrf_exempt
def defer_many(request: HttpRequest) -> JsonResponse:
    task, asked = _asked(request)
    receipts = task.defer_many([call(*args) for args in asked["calls"]])
    return JsonResponse({"receipts": [_receipt(one) for one in receipts]})


@csrf_exempt
def defer_in_transaction(request: HttpRequest) -> JsonResponse:
    """Defer in a transaction that writes, too, and that may be rolled back."""
    task, asked = _asked(request)
    try:
        with transaction.atomic():
            enqueued = task.defer(*asked["args"])
            waiting = OutboxMessage.objects.count()
            if asked["roll_back"]:
                raise ChangeOfMind
    except ChangeOfMind:
        pass
    return JsonResponse({**_receipt(enqueued), "in_outbox": waiting})


@csrf_exempt
def defer_large(request: HttpRequest) -> JsonResponse:
    asked = json.loads(request.body)
    enqueued = tasks.measure.defer(asked["text"], bytes(asked["size"]))
    return JsonResponse(_receipt(enqueued))


def entries(request: HttpRequest) -> JsonResponse:
    found = Entry.objects.filter(text__startswith=request.GET["text"]).order_by("id")
    return JsonResponse({"entries": [model_to_dict(entry) for entry in found]})


def deliveries(request: HttpRequest) -> JsonResponse:
    found = Delivery.objects.order_by("received_at")
    if name := request.GET.get("name"):
        found = found.filter(task_name__startswith=name)
    return JsonResponse({"deliveries": [model_to_dict(one) for one in found]})


def leftovers(request: HttpRequest) -> JsonResponse:
    """The rows that the library keeps in the database."""
    return JsonResponse(
        {
            "outbox": list(OutboxMessage.objects.values("key", "state", "error")),
            "payloads": Payload.objects.filter(is_done=False).count(),
            "failed": list(FailedTask.objects.values(*FAILED)),
        }
    )
