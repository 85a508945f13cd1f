"""Geometries, ranges and other values of PostGIS travel with the rows that have them.

The rows are those of a real PostGIS, in a process with settings of its own.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from tests.databases import server_settings, why_unreachable
from tests.docs.blocks import ROOT

EXTENSIONS = ("postgis", "hstore")


def skip(why: str) -> None:
    print(f"PostGIS was not tested: {why}")
    pytest.skip(why)


@pytest.fixture
def database() -> Iterator[dict[str, Any]]:
    """Settings of a new database with PostGIS; where none can be made, a skip."""
    if problem := why_unreachable("postgres"):
        skip(problem)
    import psycopg

    server = server_settings("postgres")
    name = f"cloudtask_maps_{os.getpid()}"
    keys = {"HOST": "host", "PORT": "port", "USER": "user", "PASSWORD": "password"}
    where = {keyword: server[key] for key, keyword in keys.items()}
    with psycopg.connect(dbname=server["NAME"], autocommit=True, **where) as connection:
        connection.execute(f"CREATE DATABASE {name}")
        try:
            _extend(name, where)
            engine = "django.contrib.gis.db.backends.postgis"
            yield {**server, "ENGINE": engine, "NAME": name}
        finally:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


def _extend(name: str, where: dict[str, Any]) -> None:
    import psycopg

    with psycopg.connect(dbname=name, autocommit=True, **where) as connection:
        for extension in EXTENSIONS:
            try:
                connection.execute(f"CREATE EXTENSION {extension}")
            except psycopg.Error as error:
                skip(f"{extension} is missing: {str(error).splitlines()[0]}")


def test_values_of_postgis_and_postgresql_travel(database: dict[str, Any]) -> None:
    libraries = "from django.contrib.gis import gdal, geos; geos.geos_version()"
    found = subprocess.run([sys.executable, "-c", libraries], capture_output=True)
    if found.returncode:
        skip("GDAL or GEOS was not found")
    environ = os.environ | {"MAPS_DATABASE": json.dumps(database)}
    environ.pop("DJANGO_SETTINGS_MODULE", None)
    command = [sys.executable, "-m", "tests.codec.maps.program"]
    done = subprocess.run(
        command, cwd=ROOT, env=environ, capture_output=True, text=True
    )
    assert done.stdout == "all arrived\n", done.stderr
