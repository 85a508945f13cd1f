"""Which database a test run uses, from one environment variable.

CLOUDTASK_TEST_DATABASE is "sqlite" (default), "postgres" or "mysql"; the URLs come
from CLOUDTASK_TEST_POSTGRES_URL and CLOUDTASK_TEST_MYSQL_URL, else the usual local
ports.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote, urlsplit

DEFAULT_URLS = {
    "postgres": "postgres://postgres@127.0.0.1:5432/postgres",
    "mysql": "mysql://root@127.0.0.1:3306/test",
}
ENGINES = {
    "postgres": "django.db.backends.postgresql",
    "mysql": "django.db.backends.mysql",
}


def server_url(kind: str, environ: Mapping[str, str] = os.environ) -> str:
    return environ.get(f"CLOUDTASK_TEST_{kind.upper()}_URL") or DEFAULT_URLS[kind]


def server_settings(kind: str, environ: Mapping[str, str] = os.environ) -> dict[str, Any]:
    url = urlsplit(server_url(kind, environ))
    return {
        "ENGINE": ENGINES[kind],
        "HOST": url.hostname,
        "PORT": url.port,
        "USER": unquote(url.username or ""),
        "PASSWORD": unquote(url.password or ""),
        "NAME": url.path.lstrip("/") or "postgres",
    }


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
            "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;",
        },
    }


def databases(kind: str) -> dict[str, Any]:
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
