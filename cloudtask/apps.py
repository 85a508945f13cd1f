"""The Django app: it imports the tasks of the library and of every installed app."""

from __future__ import annotations

from importlib.util import find_spec

from django.apps import AppConfig, apps
from django.utils.module_loading import autodiscover_modules


class CloudTaskConfig(AppConfig):
    name = "cloudtask"
    verbose_name = "Cloud Tasks"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        # For what they register: the system checks, and the tasks of the library,
        # whose names tell no module to import.
        from cloudtask import checks, deferred  # noqa: F401

        # `django.tasks` registers its checks when it is imported. Workers find the
        # tasks that are declared with it only then.
        if find_spec("django.tasks") or apps.is_installed("django_tasks"):
            from cloudtask import backend  # noqa: F401

        autodiscover_modules("tasks")
