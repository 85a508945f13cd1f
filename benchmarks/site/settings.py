"""Settings of the project; the benchmarks choose by environment.

BENCH_PEER is a module of `benchmarks.peers`. BENCH_DATABASE is "postgres" (default),
"mysql" or "sqlite". Ports and URLs lead to the servers, or to a proxy in front of them.
"""

from __future__ import annotations

import os
from importlib.util import find_spec
from typing import Any

import pymysql

from benchmarks import processes
from tests.databases import server_settings

pymysql.version_info = (2, 2, 7, "final", 0)
pymysql.install_as_MySQLdb()

PEER = os.environ.get("BENCH_PEER", "")
REDIS = os.environ.get("BENCH_REDIS_URL", processes.REDIS)
RABBITMQ = os.environ.get("BENCH_RABBITMQ_URL", "amqp://guest:guest@127.0.0.1:5672//")
DATABASE = os.environ.get("BENCH_DATABASE", "postgres")
NAME = os.environ.get("BENCH_NAME", "cloudtask_bench")
SITE = os.environ.get("BENCH_SITE_URL", "http://127.0.0.1:8000")
# Only our emulator signs tokens, which the handler verifies as in production.
ISSUER = os.environ.get("BENCH_ISSUER", "")
ACCOUNT = "tasks@p.iam.gserviceaccount.com"


def database() -> dict[str, Any]:
    """DATABASES["default"]: connections stay open, and each commit reaches the disk."""
    if DATABASE == "sqlite":
        pragmas = "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;"
        options = {"timeout": 60, "transaction_mode": "IMMEDIATE"}
        return {
            "ENGINE": "django.db.backends.sqlite3",
            "NAME": os.path.join(os.environ["BENCH_FOLDER"], "db.sqlite3"),
            "OPTIONS": {**options, "init_command": pragmas},
            "CONN_MAX_AGE": None,
        }
    server = {**server_settings(DATABASE), "NAME": NAME, "CONN_MAX_AGE": None}
    server.pop("OPTIONS", None)  # tests don't wait for the disk; users do
    if port := os.environ.get("BENCH_DATABASE_PORT"):
        server |= {"HOST": "127.0.0.1", "PORT": int(port)}
    return server


SECRET_KEY = "of the benchmarks"
ALLOWED_HOSTS = ["*"]
ROOT_URLCONF = "benchmarks.site.urls"
USE_TZ = True
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
INSTALLED_APPS = ["cloudtask", "benchmarks.site"]
DATABASES = {"default": database()}

TARGET: dict[str, Any] = {"BACKEND": "cloudtask.targets.HttpTarget", "URL": SITE}
TARGET |= (
    {"SERVICE_ACCOUNT": ACCOUNT, "ISSUER": ISSUER} if ISSUER else {"VERIFY": False}
)
CLOUDTASK = {
    "PROJECT": "p",
    "LOCATION": "l",
    "TARGET": TARGET,
    "TRANSPORT": {"BACKEND": "cloudtask.transports.cloud.CloudTransport"},
    "QUEUES": {"default": {}},
    "TRUSTED_MODULES": ["benchmarks"],
}

if PEER.startswith("procrastinate"):
    INSTALLED_APPS += ["procrastinate.contrib.django"]
    PROCRASTINATE_IMPORT_PATHS = [f"benchmarks.peers.{PEER}"]
if PEER.startswith("django_tasks"):
    INSTALLED_APPS += ["django_tasks_db"]
    if not find_spec("django.tasks"):
        INSTALLED_APPS += ["django_tasks"]
    TASKS = {"default": {"BACKEND": "django_tasks_db.DatabaseBackend"}}

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "handlers": {"console": {"class": "logging.StreamHandler"}},
    "root": {"handlers": ["console"], "level": "WARNING"},
}
