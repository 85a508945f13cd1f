"""Settings of the example; those of cloudtask are at the end."""

import os
from datetime import timedelta
from pathlib import Path

FOLDER = Path(__file__).resolve().parent.parent
OUT = Path(os.environ.get("ATLAS_OUT", FOLDER / "out"))

SECRET_KEY = os.environ.get("SECRET_KEY", "only for this example")
DEBUG = False
ALLOWED_HOSTS = ["127.0.0.1", "localhost"]
ROOT_URLCONF = "atlas.urls"
WSGI_APPLICATION = "atlas.wsgi.application"
# cloudtask needs none of Django's apps. Its dashboard lies in the admin.
INSTALLED_APPS = [
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.messages",
    "django.contrib.sessions",
    "django.contrib.staticfiles",
    "cloudtask",
    "cities",
]
MIDDLEWARE = [
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
]
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]
STATIC_URL = "/static/"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
TIME_ZONE = "UTC"
USE_TZ = True

# Several processes write to this file at once: see docs/howto/sqlite.md.
DATABASES = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": OUT / "db.sqlite3",
        "OPTIONS": {
            "timeout": 20,
            "transaction_mode": "IMMEDIATE",
            "init_command": "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL;",
        },
    }
}

CLOUDTASK = {
    "PROJECT": "atlas",
    "LOCATION": "europe-west1",
    "TARGET": {
        "BACKEND": "cloudtask.targets.HttpTarget",
        "URL": os.environ.get("ATLAS_URL", "http://127.0.0.1:8000"),
        "SERVICE_ACCOUNT": "tasks@atlas.iam.gserviceaccount.com",
    },
    "QUEUES": {
        "default": {},
        "places": {"rate": "500/s", "concurrency": 16},
    },
    # How long a shard waits after its process was killed; a minute by default. The demo
    # kills a process, and a minute would be long to watch.
    "LEASE": timedelta(seconds=6),
}
if os.environ.get("ATLAS_STORE") == "datastore":
    # `make demo STORE=datastore`: iterations, large payloads and failed tasks are kept
    # in Datastore. Without this setting, they are in the database.
    CLOUDTASK["STORE"] = {"BACKEND": "cloudtask.stores.datastore.DatastoreStore"}
if "CLOUDTASK_EMULATOR_URL" in os.environ:
    # In development, the emulator signs the deliveries instead of Google, and publishes
    # its certificates. `manage.py check --deploy` refuses this setting.
    CLOUDTASK["TARGET"]["ISSUER"] = os.environ["CLOUDTASK_EMULATOR_URL"]

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "handlers": {"console": {"class": "logging.StreamHandler"}},
    "root": {"handlers": ["console"], "level": "WARNING"},
    "loggers": {"cloudtask": {"level": "INFO"}},
}
