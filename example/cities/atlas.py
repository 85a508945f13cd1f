"""Writes the report of all cities: a table, and a map with a dot for each city."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from pathlib import Path

from django.conf import settings
from PIL import Image

from cities.models import City

WIDTH, HEIGHT = 1440, 720  # pixels: a quarter of a degree each
SEA = (12, 22, 48)
FAR = 500.0  # km to the next metropolis; from this distance on, a dot is red


def write(cities: Iterable[City]) -> tuple[Path, Path]:
    """Write atlas.csv and atlas.png; a second call writes the same files again."""
    table, picture = settings.OUT / "atlas.csv", settings.OUT / "atlas.png"
    image = Image.new("RGB", (WIDTH, HEIGHT), SEA)
    with table.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["city", "country", "metropolis", "km"])
        for city in cities:
            nearest = city.metropolis.name if city.metropolis else ""
            writer.writerow([city.name, city.country, nearest, f"{city.distance:.0f}"])
            image.putpixel(_place(city), _color(city.distance or 0.0))
    image.save(picture)
    return table, picture


def _place(city: City) -> tuple[int, int]:
    x = int((city.longitude + 180) / 360 * WIDTH)
    y = int((90 - city.latitude) / 180 * HEIGHT)
    return min(x, WIDTH - 1), min(y, HEIGHT - 1)


def _color(distance: float) -> tuple[int, int, int]:
    """Yellow near a metropolis, red far from all of them."""
    nearness = max(0.0, 1.0 - distance / FAR)
    return 255, int(40 + 200 * nearness), 60
