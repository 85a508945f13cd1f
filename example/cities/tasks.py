"""The tasks of this app. cloudtask imports the module `tasks` of every app.

A task may be delivered twice, so each of these can run again without harm.
"""

from __future__ import annotations

from datetime import datetime
from functools import cache
from zoneinfo import ZoneInfo

from cities import atlas
from cities.models import METROPOLIS, City, Report
from cloudtask import Backoff, PermanentTaskFailure, current, task


# It takes an id, not an object, so it reads the row as it is when the task runs.
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
    """All cities with more than a million people, read once for each process."""
    return list(City.objects.filter(population__gt=METROPOLIS))


@task
def write_report(title: str) -> None:
    done = City.objects.filter(metropolis__isnull=False).count()
    # The title is the key, so a second delivery writes the same row.
    Report.objects.update_or_create(title=title, defaults={"cities_done": done})


# Its argument is too large for a task of Cloud Tasks, so the store keeps it meanwhile.
@task
def rank(populations: dict[str, int]) -> None:
    largest = max(populations, key=populations.__getitem__)
    defaults = {"cities_done": len(populations)}
    Report.objects.update_or_create(title=f"largest: {largest}", defaults=defaults)


# Five attempts at most, the second after half a second. Then it is kept as failed.
@task(max_attempts=5, backoff=Backoff(min=0.5, max=30))
def note_local_time(city_id: int) -> None:
    city = City.objects.get(pk=city_id)
    City.objects.filter(pk=city_id).update(local_time=ask_time_service(city))


def ask_time_service(city: City) -> str:
    """Stand in for another service that is unavailable at first.

    Cloud Tasks repeats the attempt that raises the error.
    """
    context = current()
    if context is not None and context.attempt == 1:
        raise ConnectionError("the time service does not answer")
    return f"{datetime.now(ZoneInfo(city.timezone)):%A, %H:%M}"


# Another attempt would not help, so the call is kept as failed at once. A person looks
# at it in the dashboard.
@task
def send_postcard(city_id: int, stamp: str) -> None:
    city = City.objects.get(pk=city_id)
    raise PermanentTaskFailure(f"the post office takes no postcards to {city}")


# `measure.iterate(queryset)` calls this with every row. If a process is killed, rows
# since the last checkpoint are called again, so this can run twice without harm too.
@task(queue="places")
def measure(city: City) -> None:
    nearest = min(metropolises(), key=city.distance_to)
    city.metropolis = nearest
    city.distance = city.distance_to(nearest)
    # Only these columns: the others may have changed meanwhile.
    city.save(update_fields=["metropolis", "distance"])


@task
def draw_atlas() -> None:
    """Write the table and the map; runs once, after the last city."""
    atlas.write(City.objects.select_related("metropolis").order_by("pk").iterator())
    Report.objects.create(title="atlas", cities_done=City.objects.count())
