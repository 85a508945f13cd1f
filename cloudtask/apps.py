from __future__ import annotations

from django.apps import AppConfig
from django.utils.module_loading import autodiscover_modules


class CloudTaskConfig(AppConfig):
    name = "cloudtask"
    verbose_name = "Cloud Tasks"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        from cloudtask import checks  # noqa: F401  registers the system checks

        autodiscover_modules("tasks")
