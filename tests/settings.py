"""Settings of the test project; cloudtask itself is left at its defaults."""

import os

import django
import pymysql

from tests.databases import databases

# PyMySQL stands in for mysqlclient, which needs a compiler and headers; Django asks
# for the version of the real one.
pymysql.version_info = (2, 2, 7, "final", 0)
pymysql.install_as_MySQLdb()

SECRET_KEY = "a key for tests only"
DATABASES = databases(os.environ.get("CLOUDTASK_TEST_DATABASE", "sqlite"))
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
INSTALLED_APPS = [
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.admin",
    "django.contrib.staticfiles",
    "cloudtask",
    "tests.testapp",
    "tests.iteration",
    "tests.compat",
    "tests.docs",
]
LIBRARY_OF_TASKS = "django.tasks"
if django.VERSION < (6, 0):
    LIBRARY_OF_TASKS = "django_tasks"  # the backport of what came with 6.0
    INSTALLED_APPS.append(LIBRARY_OF_TASKS)
MIDDLEWARE = [
    "django.contrib.sessions.middleware.SessionMiddleware",
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
ROOT_URLCONF = "tests.urls"
STATIC_URL = "/static/"
USE_TZ = True
TIME_ZONE = "Europe/Bratislava"
TASKS = {
    alias: {
        "BACKEND": "cloudtask.backend.CloudTasksBackend",
        "QUEUES": ["default", "mail"],
        "OPTIONS": options,
    }
    for alias, options in {
        "default": {},
        "kept": {"results": True},
        "kept_elsewhere": {"results": "other"},
        "urgent": {"priority_queues": {1: "{queue}-soon", 50: "now", -1: "later"}},
    }.items()
}
TASKS["immediate"] = {
    "BACKEND": f"{LIBRARY_OF_TASKS}.backends.immediate.ImmediateBackend"
}
