from __future__ import annotations

import os

from django.db import transaction
from django.http import HttpRequest, JsonResponse
from django.views.decorators.http import require_GET, require_POST

from cities.models import City
from cities.tasks import note_local_time
from cloudtask.models import FailedTask, OutboxMessage


@require_GET
def progress(request: HttpRequest) -> JsonResponse:
    """How much is done, and what of it failed."""
    return JsonResponse(
        {
            "cities": City.objects.count(),
            "done": City.objects.filter(metropolis__isnull=False).count(),
            "failed_tasks": FailedTask.objects.count(),
            "in_outbox": OutboxMessage.objects.count(),
            "worker": os.getpid(),
        }
    )


@require_POST
def grow(request: HttpRequest, city_id: int) -> JsonResponse:
    """Count one inhabitant more, and have the local time noted.

    In a transaction `defer` writes to the outbox: the task is enqueued if the rest is
    committed, and only then.
    """
    with transaction.atomic():
        city = City.objects.select_for_update().get(pk=city_id)
        city.population += 1
        city.save(update_fields=["population"])
        enqueued = note_local_time.defer(city_id)
    return JsonResponse({"population": city.population, "task": enqueued.name})
