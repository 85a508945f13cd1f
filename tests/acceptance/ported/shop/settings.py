"""The shop's settings after the port; PORTED_FOLDER is where its database lies."""

import json
import os
from pathlib import Path

SECRET_KEY = "a key for the acceptance tests only"
ALLOWED_HOSTS = ["127.0.0.1", "localhost", "testserver"]
ROOT_URLCONF = "tests.acceptance.ported.shop.urls"
USE_TZ = True
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
INSTALLED_APPS = ["cloudtask", "tests.acceptance.ported.shop"]
MIDDLEWARE = ["cloudtask.middleware.task_environment_middleware"]
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": Path(os.environ["PORTED_FOLDER"]) / "db.sqlite3",
        "OPTIONS": {
            "timeout": 30,
            "transaction_mode": "IMMEDIATE",
            "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;",
        },
    }
}

# As they were with djangae:
CLOUD_TASKS_PROJECT_ID = "p"
CLOUD_TASKS_LOCATION = "l"
CLOUD_TASKS_QUEUES = [
    {"name": "default"},
    {"name": "mail", "rate_per_second": 100, "retry_max_attempts": 10},
    {"name": "stock", "retry_max_attempts": -1},
]

CLOUDTASK = {"TARGET": json.loads(os.environ["PORTED_TARGET"])}
