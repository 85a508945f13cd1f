"""How the test talks to the site: JSON in, JSON out."""

from __future__ import annotations

import json
from io import StringIO

from django.core.management import call_command
from django.db import transaction
from django.http import HttpRequest, JsonResponse
from django.views.decorators.csrf import csrf_exempt

from cloudtask import iteration
from cloudtask.exceptions import CloudTaskError
from tests.acceptance.datastore_site import tasks
from tests.acceptance.datastore_site.models import Order, Visit


class ChangeOfMind(Exception):
    """Rolls a transaction back."""


@csrf_exempt
def defer(request: HttpRequest) -> JsonResponse:
    """Defer a task, perhaps in a transaction that commits or is rolled back."""
    asked = json.loads(request.body)
    task = getattr(tasks, asked["task"]).using(**asked.get("options", {}))
    args = [*asked["args"], *([bytes(asked["size"])] if "size" in asked else [])]
    try:
        if asked.get("ends") is None:
            return JsonResponse({"id": task.defer(*args).id})
        with transaction.atomic():
            Visit.objects.create(name=f"beside {asked['ends']}")
            receipt = task.defer(*args)
            if asked["ends"] == "rollback":
                raise ChangeOfMind
    except ChangeOfMind:
        return JsonResponse({"id": None})
    except CloudTaskError as error:
        return JsonResponse({"refused": str(error)})
    return JsonResponse({"id": receipt.id})


@csrf_exempt
def orders(request: HttpRequest) -> JsonResponse:
    for number in json.loads(request.body)["numbers"]:
        Order.objects.create(number=number)
    return JsonResponse({})


@csrf_exempt
def manage(request: HttpRequest) -> JsonResponse:
    """Run a management command; its output is the answer."""
    output = StringIO()
    call_command(*json.loads(request.body)["arguments"], stdout=output, stderr=output)
    return JsonResponse({"output": output.getvalue()})


@csrf_exempt
def walk(request: HttpRequest) -> JsonResponse:
    """Begin an iteration over all orders, in so many shards."""
    shards = json.loads(request.body)["shards"]
    run = tasks.visit.iterate(
        Order.objects.all(),
        finalize=tasks.close,
        shards=shards,
        keep=True,
    )
    return JsonResponse({"id": run.id})


@csrf_exempt
def retry(request: HttpRequest) -> JsonResponse:
    run = iteration.get(json.loads(request.body)["id"])
    return JsonResponse({"retried": run.retry_failures()})


def state(request: HttpRequest) -> JsonResponse:
    run = iteration.get(request.GET["id"])
    report = run.report()
    return JsonResponse(
        {
            "state": str(run.state),
            "error": run.error,
            "done": report.done,
            "failed": report.failed,
            "errors": [one.error for one in run.failures()],
            "shards": len(report.shards),
        }
    )


def visits(request: HttpRequest) -> JsonResponse:
    found = Visit.objects.all()
    return JsonResponse({one.name: [one.times, one.size] for one in found})
