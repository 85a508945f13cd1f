"""Which database a test run uses, from one environment variable.

CLOUDTASK_TEST_DATABASE is "sqlite" (default), "postgres" or "mysql"; the URLs come
from CLOUDTASK_TEST_POSTGRES_URL and CLOUDTASK_TEST_MYSQL_URL, else the usual local
ports. `python -m tests.databases postgres` prints why that server can't be reached.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote, urlsplit

DEFAULT_URLS = {
    "postgres": "postgres://postgres@127.0.0.1:5432/postgres",
    "mysql": "mysql://root@127.0.0.1:3306/test",
}
HASTY = {"options": "-c synchronous_commit=off"}
ENGINES = {
    "postgres": "django.db.backends.postgresql",
    "mysql": "django.db.backends.mysql",
}
CONNECT_TIMEOUT = 5  # seconds


def url_variable(kind: str) -> str:
    return f"CLOUDTASK_TEST_{kind.upper()}_URL"


def server_url(kind: str, environ: Mapping[str, str] = os.environ) -> str:
    return environ.get(url_variable(kind)) or DEFAULT_URLS[kind]


def server_settings(
    kind: str, environ: Mapping[str, str] = os.environ
) -> dict[str, Any]:
    url = urlsplit(server_url(kind, environ))
    return {
        "ENGINE": ENGINES[kind],
        "HOST": url.hostname,
        "PORT": url.port,
        "USER": unquote(url.username or ""),
        "PASSWORD": unquote(url.password or ""),
        "NAME": url.path.lstrip("/") or "postgres",
        # Nor is it waited for there, where a connection can say so.
        **({"OPTIONS": HASTY} if kind == "postgres" else {}),
    }


def why_unreachable(kind: str) -> str | None:
    """Why no connection to the server of `kind` can be made; None when it can."""
    if kind == "sqlite":
        return None
    server = server_settings(kind)
    try:
        _connect(kind, server)
    except Exception as error:  # noqa: BLE001  each driver has errors of its own
        return str(error).strip().splitlines()[0]
    return None


def _connect(kind: str, server: Mapping[str, Any]) -> None:
    options = {
        "host": server["HOST"],
        "port": server["PORT"],
        "user": server["USER"],
        "password": server["PASSWORD"],
        "connect_timeout": CONNECT_TIMEOUT,
    }
    if kind == "postgres":
        import psycopg

        psycopg.connect(dbname=server["NAME"], **options).close()
    else:
        import pymysql

        pymysql.connect(**options).close()


def sqlite_settings(name: str) -> dict[str, Any]:
    return {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": name,
        # A file, not memory, where tests use threads: several connections must
        # meet in one database.
        "TEST": {"NAME": None},
        "OPTIONS": {
            "timeout": 20,
            "transaction_mode": "IMMEDIATE",
            # Processes are killed here, machines are not: nobody waits for the disk.
            "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=OFF;",
        },
    }


def databases(kind: str) -> dict[str, Any]:
    """DATABASES for `kind`. CLOUDTASK_TEST_SUFFIX keeps runs on one server apart."""
    if kind == "sqlite":
        return {
            "default": sqlite_settings("default.sqlite3"),
            "other": sqlite_settings("other.sqlite3"),
        }
    first = server_settings(kind)
    suffix = os.environ.get("CLOUDTASK_TEST_SUFFIX", "")
    return {
        "default": {**first, "TEST": {"NAME": f"test_cloudtask{suffix}"}},
        "other": {**first, "TEST": {"NAME": f"test_cloudtask_other{suffix}"}},
    }


if __name__ == "__main__":  # for noxfile.py
    print(why_unreachable(sys.argv[1]) or "")
