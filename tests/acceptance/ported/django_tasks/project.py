"""Settings and URLs with which Django's tests of tasks run against our backend."""

from __future__ import annotations

from django.urls import include, path

SECRET_KEY = "of-tests"
USE_TZ = True
ROOT_URLCONF = "project"
INSTALLED_APPS = ["cloudtask"]
DATABASES = {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}}
CLOUDTASK = {
    "TRANSPORT": {"BACKEND": "cloudtask.transports.memory.MemoryTransport"},
    "TRUSTED_MODULES": ["tasks"],
}
TASKS = {"default": {"BACKEND": "backends.Waiting"}}

urlpatterns = [path("_cloudtask/", include("cloudtask.urls"))]
