"""The views: how far the demo is, and one that defers a task in a transaction."""

from __future__ import annotations

import os

from django.db import transaction
from django.http import HttpRequest, JsonResponse
from django.views.decorators.csrf import csrf_exempt
from django.views.decorators.http import require_GET, require_POST

from cities.models import City
from cities.tasks import note_local_time
from cloudtask.models import OutboxMessage
from cloudtask.stores import store


@require_GET
def progress(request: HttpRequest) -> JsonResponse:
    """How many cities are done, and how many tasks have failed."""
    return JsonResponse(
        {
            "cities": City.objects.count(),
            "done": City.objects.filter(metropolis__isnull=False).count(),
            "failed_tasks": store().count_failed(),
            "in_outbox": OutboxMessage.objects.count(),
            "worker": os.getpid(),
        }
    )


@csrf_exempt  # curl sends no cookie
@require_POST
def grow(request: HttpRequest, city_id: int) -> JsonResponse:
    """Add an inhabitant to the city, and defer a task that notes its local time.

    In a transaction, `defer` writes to the outbox. The task is enqueued only if the
    transaction commits.
    """
    with transaction.atomic():
        city = City.objects.select_for_update().get(pk=city_id)
        city.population += 1
        city.save(update_fields=["population"])
        enqueued = note_local_time.defer(city_id)
    return JsonResponse({"population": city.population, "task": enqueued.name})
