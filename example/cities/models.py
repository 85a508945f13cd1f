"""Cities, and reports about them."""

from __future__ import annotations

from math import asin, cos, radians, sin, sqrt

from django.db import models

EARTH_DIAMETER = 12_742  # km
METROPOLIS = 1_000_000  # people


class City(models.Model):
    name = models.CharField(max_length=200)
    country = models.CharField(max_length=2)
    population = models.PositiveIntegerField(db_index=True)
    latitude = models.FloatField()
    longitude = models.FloatField()
    timezone = models.CharField(max_length=50)

    # Found by the tasks.
    metropolis = models.ForeignKey(
        "self", models.SET_NULL, null=True, related_name="surroundings"
    )
    distance = models.FloatField(null=True)  # km, to that metropolis
    local_time = models.CharField(max_length=50, blank=True)

    class Meta:
        verbose_name_plural = "cities"

    def __str__(self) -> str:
        return f"{self.name} ({self.country})"

    def distance_to(self, other: City) -> float:
        """The distance along the surface, in kilometers."""
        here, there = radians(self.latitude), radians(other.latitude)
        width = radians(other.longitude - self.longitude)
        half = sin((there - here) / 2) ** 2
        half += cos(here) * cos(there) * sin(width / 2) ** 2
        return EARTH_DIAMETER * asin(sqrt(half))


class Report(models.Model):
    """How many cities were done at one moment."""

    title = models.CharField(max_length=100)
    cities_done = models.PositiveIntegerField()
    written_at = models.DateTimeField(auto_now_add=True)

    def __str__(self) -> str:
        return f"{self.title}: {self.cities_done} cities"
