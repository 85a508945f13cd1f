"""Sends rows of PostGIS to a task and back: run by tests/codec/test_gis.py.

The database is `MAPS_DATABASE`, as JSON.
"""

import json
import os
from datetime import UTC, date, datetime
from decimal import Decimal

import django
from django.conf import settings

settings.configure(
    SECRET_KEY="a key for this test only",
    USE_TZ=True,
    DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
    INSTALLED_APPS=[
        *("django.contrib.gis", "django.contrib.postgres"),
        *("cloudtask", "tests.codec.maps"),
    ],
    DATABASES={"default": json.loads(os.environ["MAPS_DATABASE"])},
    CLOUDTASK={"PROJECT": "p", "LOCATION": "l"},
)
django.setup()

from django.contrib.gis.gdal import GDALRaster
from django.contrib.gis.geos import (
    GeometryCollection,
    LineString,
    MultiPoint,
    Point,
    Polygon,
)
from django.contrib.gis.measure import Area, Distance
from django.core.management import call_command
from django.test.utils import setup_test_environment
from psycopg.types.range import Range

from cloudtask.testing import run_queued
from tests.codec.maps import tasks
from tests.codec.maps.models import Everything

VALUES = {
    "point": Point(1.5, 2.5, srid=4326),
    "area": Polygon(((0, 0), (0, 1), (1, 1), (0, 0)), srid=3857),
    "deep": Point(1, 2, 3, srid=4326),
    "shapes": GeometryCollection(Point(1, 2), srid=4326),
    "nights": Range(1, 5),
    "large": Range(None, 10**12),
    "price": Range(Decimal("1.5"), Decimal("2.5"), "(]"),
    "days": Range(date(2026, 1, 1), date(2026, 2, 1)),
    "times": Range(datetime(2026, 1, 1, tzinfo=UTC), None),
    "seasons": [Range(1, 2), Range(5, None)],
    "tags": {"a": "b", "c": None},
}


ALONE = [
    *(Point(1.5, 2.5, srid=4326), Point(0.1, 0.2, 0.3), Point(srid=4326)),
    *(LineString((0, 0), (1, 1)), MultiPoint(Point(0, 0), Point(1, 1), srid=3857)),
    *(VALUES["area"], VALUES["shapes"], Polygon()),
    *(Distance(mi=3), Area(sq_m=Decimal("2.5"))),
    {"places": [Point(1, 2)]},
]


def arrived(value):
    """The value as the task gets it, which also saves a row that has a key."""
    tasks.got.clear()
    tasks.keep.defer(value)
    run_queued()
    return tasks.got[0]


def check(row):
    found = arrived(row)
    for name in VALUES:
        before, after = getattr(row, name), getattr(found, name)
        assert (type(after), after) == (type(before), before), name
        srids = [getattr(one, "srid", None) for one in (before, after)]
        assert srids[0] == srids[1], name


def check_alone(value):
    found = arrived(value)
    assert (type(found), found) == (type(value), value), value
    assert getattr(found, "srid", None) == getattr(value, "srid", None), value


def check_raster():
    band = {"data": range(6), "nodata_value": 3}
    size = {"width": 3, "height": 2, "srid": 4326, "datatype": 1}
    before = GDALRaster({**size, "origin": (1, 2), "scale": (1, -1), "bands": [band]})
    after = arrived(before)
    for name in ("width", "height", "srid", "origin", "scale"):
        assert getattr(before, name) == getattr(after, name), name
    (one,), (other,) = before.bands, after.bands
    assert bytes(one.data(as_memoryview=True)) == bytes(other.data(as_memoryview=True))
    assert one.nodata_value == other.nodata_value


setup_test_environment()
call_command("migrate", run_syncdb=True, verbosity=0)
row = Everything(**VALUES)
check(row)
row.save()
check(row)
check(Everything.objects.get())
check(Everything.objects.get())  # what the task has saved

for each in ALONE:
    check_alone(each)
check_raster()

tasks.got.clear()
tasks.keep.iterate(Everything.objects.filter(nights__contains=3))
tasks.keep.iterate(Everything.objects.filter(nights__contains=7))
tasks.keep.iterate(Everything.objects.filter(days__startswith=date(2026, 1, 1)))
run_queued()
assert len(tasks.got) == 2

tasks.got.clear()
near = {"point__distance_lte": (Point(1.5, 2.5, srid=4326), 5)}
tasks.keep.iterate(Everything.objects.filter(**near))
tasks.keep.iterate(Everything.objects.filter(deep__dwithin=(row.deep, Distance(km=1))))
run_queued()
assert len(tasks.got) == 2
print("all arrived")
