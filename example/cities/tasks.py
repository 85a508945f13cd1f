"""The tasks of this app. cloudtask imports the module `tasks` of every app.

A task may be delivered twice, so each of these can run again without harm.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from functools import cache
from zoneinfo import ZoneInfo

from django.db.models import Count
from django.utils import timezone

from cities import atlas
from cities.models import METROPOLIS, City, Report
from cloudtask import Backoff, PermanentTaskFailure, Schedule, current, task


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


# A chain: each step gets what the one before returned. `demo.py` defers
# chain(most_remote.s(5), describe.s(), write_tour.s()).
@task
def most_remote(count: int) -> list[int]:
    """The cities that are furthest from a metropolis."""
    far = City.objects.filter(distance__isnull=False).order_by("-distance", "pk")
    return list(far.values_list("pk", flat=True)[:count])


@task
def describe(city_ids: list[int]) -> list[str]:
    cities = City.objects.in_bulk(city_ids)
    return [f"{cities[pk]}, {cities[pk].distance:,.0f} km" for pk in city_ids]


@task
def write_tour(stops: list[str]) -> None:
    title = f"tour: from {stops[0]}"[:100]
    Report.objects.update_or_create(title=title, defaults={"cities_done": len(stops)})


# A group: the counts of all countries side by side. Then one report gets their list, in
# the order of the members: group(...).then(compare_countries.s()).
@task(queue="places")
def count_cities(country: str) -> tuple[str, int]:
    return country, City.objects.filter(country=country).count()


@task
def compare_countries(counts: list[tuple[str, int]]) -> None:
    country, most = max(counts, key=lambda pair: pair[1])
    defaults = {"cities_done": sum(count for _, count in counts)}
    title = f"countries: {country} has most of {len(counts)}, {most} cities"
    Report.objects.update_or_create(title=title, defaults=defaults)


def countries(count: int) -> list[str]:
    """The countries with the most cities."""
    found = City.objects.values("country").annotate(cities=Count("pk"))
    ordered = found.order_by("-cities", "country")
    return list(ordered.values_list("country", flat=True)[:count])


# Every night at 02:30 in Reykjavik. The relay enqueues it; in development the emulator
# calls the relay each minute. A call that still runs keeps the next one from beginning.
@task(
    schedule=Schedule("30 2 * * *", tz="Atlantic/Reykjavik", key="tidy", overlap="skip")
)
def delete_old_reports() -> None:
    a_week_ago = timezone.now() - timedelta(days=7)
    Report.objects.filter(written_at__lt=a_week_ago).delete()
    Report.objects.update_or_create(title="tidied", defaults={"cities_done": 0})
