"""Writes the report of all cities: a table, and a map with a dot for each city."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from pathlib import Path

from django.conf import settings
from PIL import Image, ImageDraw, ImageFont

from cities.models import METROPOLIS, City

WIDTH, HEIGHT = 1440, 720  # pixels: a quarter of a degree each
TITLE, LEGEND = 64, 72  # pixels above and below the map
SEA = (12, 22, 48)
PAPER = (6, 12, 28)
INK = (226, 232, 240)
FAR = 500.0  # km to the next metropolis; from this distance on, a dot is red


def write(cities: Iterable[City]) -> tuple[Path, Path]:
    """Write atlas.csv and atlas.png; a second call writes the same files again."""
    table, picture = settings.OUT / "atlas.csv", settings.OUT / "atlas.png"
    image = Image.new("RGB", (WIDTH, TITLE + HEIGHT + LEGEND), PAPER)
    image.paste(SEA, (0, TITLE, WIDTH, TITLE + HEIGHT))
    count = 0
    with table.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["city", "country", "metropolis", "km"])
        for city in cities:
            nearest = city.metropolis.name if city.metropolis else ""
            writer.writerow([city.name, city.country, nearest, f"{city.distance:.0f}"])
            image.putpixel(_place(city), _color(city.distance or 0.0))
            count += 1
    _explain(image, count)
    image.save(picture)
    return table, picture


def _place(city: City) -> tuple[int, int]:
    x = int((city.longitude + 180) / 360 * WIDTH)
    y = int((90 - city.latitude) / 180 * HEIGHT)
    return min(x, WIDTH - 1), TITLE + min(y, HEIGHT - 1)


def _color(distance: float) -> tuple[int, int, int]:
    """Yellow near a metropolis, red far from all of them."""
    nearness = max(0.0, 1.0 - distance / FAR)
    return 255, int(40 + 200 * nearness), 60


def _explain(image: Image.Image, count: int) -> None:
    """Write a title above the map, and below it what the colors mean."""
    draw = ImageDraw.Draw(image)
    draw.text((24, 16), "How far is the next metropolis?", INK, _font(30))
    cities = f"{count:,} cities; a metropolis has more than {METROPOLIS:,} people"
    draw.text((WIDTH - 24, 24), cities, INK, _font(18), anchor="ra")
    left, top, width, height = 24, TITLE + HEIGHT + 18, 480, 16
    for x in range(width):
        color = _color(FAR * x / width)
        draw.line((left + x, top, left + x, top + height), color)
    for km in range(0, int(FAR) + 1, 100):
        text = f"{km} km" + (" and more" if km == FAR else "")
        place = (left + width * km / FAR, top + height + 8)
        draw.text(place, text, INK, _font(16), anchor="la" if km == 0 else "ma")
    source = "Cities: GeoNames (CC BY 4.0). Drawn once, by finalize."
    draw.text((WIDTH - 24, top + height + 8), source, INK, _font(16), anchor="ra")


def _font(size: int) -> ImageFont.ImageFont | ImageFont.FreeTypeFont:
    return ImageFont.load_default(size)
