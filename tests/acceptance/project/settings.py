"""Settings of the site that gunicorn serves; the tests choose by environment.

ACCEPTANCE_FOLDER is where the database file lies, ACCEPTANCE_TARGET is
CLOUDTASK["TARGET"] as JSON.
"""

import json
import os
from pathlib import Path

SECRET_KEY = "a key for the acceptance tests only"
ALLOWED_HOSTS = ["127.0.0.1", "localhost"]
ROOT_URLCONF = "tests.acceptance.project.urls"
USE_TZ = True
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
INSTALLED_APPS = ["cloudtask", "tests.acceptance.project.ledger"]
MIDDLEWARE = ["tests.acceptance.project.ledger.wire.WireLog"]
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": Path(os.environ["ACCEPTANCE_FOLDER"]) / "db.sqlite3",
        "OPTIONS": {
            "timeout": 30,
            "transaction_mode": "IMMEDIATE",
            "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;",
        },
    }
}
CLOUDTASK = {
    "PROJECT": "p",
    "LOCATION": "l",
    "TARGET": json.loads(os.environ["ACCEPTANCE_TARGET"]),
    "QUEUES": {"default": {}, "mail": {"max_attempts": 3}},
}
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "handlers": {"console": {"class": "logging.StreamHandler"}},
    "root": {"handlers": ["console"], "level": "WARNING"},
    "loggers": {"cloudtask": {"level": "INFO"}},
}
