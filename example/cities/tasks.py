"""The functions that run later. An app's tasks.py is found by itself.

A task may be delivered twice: each of these may run again without harm.
"""

from __future__ import annotations

from datetime import datetime
from functools import cache
from zoneinfo import ZoneInfo

from cities import atlas
from cities.models import METROPOLIS, City, Report
from cloudtask import Backoff, current, task


# Ids travel, not objects: the task sees the row as it is when the task runs.
@task(queue="places")
def find_metropolis(city_id: int) -> None:
    """Find the nearest city of more than a million people."""
    city = City.objects.get(pk=city_id)
    nearest = min(metropolises(), key=city.distance_to)
    City.objects.filter(pk=city_id).update(
        metropolis=nearest, distance=city.distance_to(nearest)
    )


@cache
def metropolises() -> list[City]:
    """Read once for each process of the web server."""
    return list(City.objects.filter(population__gt=METROPOLIS))


@task
def write_report(title: str) -> None:
    done = City.objects.filter(metropolis__isnull=False).count()
    # Keyed by what the caller chose: a second delivery writes the same row.
    Report.objects.update_or_create(title=title, defaults={"cities_done": done})


# At most 5 attempts, the second after half a second; then it is kept as a failed task.
@task(max_attempts=5, backoff=Backoff(min=0.5, max=30))
def note_local_time(city_id: int) -> None:
    city = City.objects.get(pk=city_id)
    City.objects.filter(pk=city_id).update(local_time=ask_time_service(city))


def ask_time_service(city: City) -> str:
    """Stands for a service elsewhere that is down at first: an attempt that raises is
    made again by Cloud Tasks."""
    context = current()
    if context is not None and context.attempt == 1:
        raise ConnectionError("the time service does not answer")
    return f"{datetime.now(ZoneInfo(city.timezone)):%A, %H:%M}"


# For `measure.iterate(queryset)`: called with every row. If a process dies, rows since
# the last checkpoint are called again, so this may run twice without harm, too.
@task(queue="places")
def measure(city: City) -> None:
    nearest = min(metropolises(), key=city.distance_to)
    city.metropolis = nearest
    city.distance = city.distance_to(nearest)
    # Only what was found out: the rest of the row may have changed meanwhile.
    city.save(update_fields=["metropolis", "distance"])


@task
def draw_atlas() -> None:
    """Runs once, after the last of the cities."""
    atlas.write(City.objects.select_related("metropolis").order_by("pk").iterator())
    Report.objects.create(title="atlas", cities_done=City.objects.count())
