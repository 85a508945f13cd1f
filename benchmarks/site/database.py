"""Creates the database of the site: `python -m benchmarks.site.database`."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

from benchmarks.processes import ROOT, Unavailable

if TYPE_CHECKING:
    from benchmarks.processes import Bench

# Each has tables of its own, in the one database.
WITH_TABLES = (
    "cloudtask_emulator",
    "procrastinate_postgres",
    "django_tasks_db_postgres",
)


def create(place: Bench) -> None:
    """Drop the database, create it, and make the tables of all peers."""
    import os

    environ = {**os.environ, **place.environ}
    _run(["benchmarks.site.database"], environ)
    only_here = environ.get("BENCH_DATABASE", "postgres") != "postgres"
    for peer in WITH_TABLES[: 1 if only_here else None]:
        migrate = ["django", "migrate", "--run-syncdb", "--verbosity=0"]
        _run(migrate, {**environ, "BENCH_PEER": peer})


def _run(module: list[str], environ: dict[str, str]) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", *module],
        cwd=ROOT,
        env=environ,
        capture_output=True,
        text=True,
        check=False,
    )
    if ended.returncode:
        raise Unavailable(ended.stderr.strip().splitlines()[-1])


def main() -> None:
    """Create an empty database on the server."""
    from django.conf import settings
    from django.db import connections

    there = settings.DATABASES["default"]
    if there["ENGINE"].endswith("sqlite3"):
        return  # a file in a folder that is new
    name, connection = there["NAME"], connections["default"]
    outside = {"postgresql": "postgres"}.get(connection.vendor, "")
    connection.settings_dict["NAME"] = outside
    quoted = connection.ops.quote_name(name)
    forced = " WITH (FORCE)" if connection.vendor == "postgresql" else ""
    with connection.cursor() as cursor:
        cursor.execute(f"DROP DATABASE IF EXISTS {quoted}{forced}")
        cursor.execute(f"CREATE DATABASE {quoted}")


if __name__ == "__main__":
    main()
