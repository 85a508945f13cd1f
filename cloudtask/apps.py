from __future__ import annotations

from importlib.util import find_spec

from django.apps import AppConfig, apps
from django.utils.module_loading import autodiscover_modules


class CloudTaskConfig(AppConfig):
    name = "cloudtask"
    verbose_name = "Cloud Tasks"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from cloudtask import checks  # noqa: F401  registers the system checks

        # Imports `django.tasks`, which registers its checks only then, and lets workers
        # find the tasks that are declared with it.
        if find_spec("django.tasks") or apps.is_installed("django_tasks"):
            from cloudtask import backend  # noqa: F401

        autodiscover_modules("tasks")
