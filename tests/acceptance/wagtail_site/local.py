"""What is added to the settings that `wagtail start` has made.

WAGTAIL_TARGET is CLOUDTASK["TARGET"] as JSON.
"""

import json
import os

import django

from .base import BASE_DIR, INSTALLED_APPS

if django.VERSION < (6,):
    INSTALLED_APPS = [*INSTALLED_APPS, "django_tasks"]
INSTALLED_APPS = [*INSTALLED_APPS, "cloudtask"]
TASKS = {
    "default": {
        "BACKEND": "cloudtask.backend.CloudTasksBackend",
        "OPTIONS": {"results": True},
    }
}
CLOUDTASK = {
    "PROJECT": "p",
    "LOCATION": "l",
    "TARGET": json.loads(os.environ["WAGTAIL_TARGET"]),
    "QUEUES": {"default": {}},
}
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": BASE_DIR / "db.sqlite3",
        "OPTIONS": {
            "timeout": 30,
            "transaction_mode": "IMMEDIATE",
            "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;",
        },
    }
}
WAGTAILADMIN_BASE_URL = "http://127.0.0.1"
WAGTAIL_ENABLE_UPDATE_CHECK = False  # it asks a server of Wagtail's
