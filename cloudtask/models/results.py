"""The table of results of `django.tasks`, for backends that keep results.

`call` and `value` are sealed: their bytes are decoded, and who may write to the table
may not say to what.
"""

from __future__ import annotations

from datetime import timedelta

from django.db import models
from django.db.models.functions import Now


class TaskResultRow(models.Model):
    """One call of a task of `django.tasks`; `backend.task_results` reads it."""

    id = models.CharField(max_length=64, primary_key=True)
    task = models.CharField(max_length=500, db_index=True)
    backend = models.CharField(max_length=200)
    queue = models.CharField(max_length=200)
    status = models.CharField(max_length=12, db_index=True)
    call = models.BinaryField()
    value = models.BinaryField(null=True)
    errors = models.BinaryField(null=True)
    worker_ids = models.JSONField(default=list)
    enqueued_at = models.DateTimeField()
    started_at = models.DateTimeField(null=True)
    last_attempted_at = models.DateTimeField(null=True)
    finished_at = models.DateTimeField(null=True, db_index=True)

    class Meta:
        verbose_name = "task result"

    def __str__(self) -> str:
        return f"{self.task} ({self.id})"


def prune(alias: str, older_than: timedelta, limit: int = 10_000) -> int:
    """Forget results of calls that ended longer ago; how many."""
    rows = TaskResultRow.objects.using(alias)
    old = rows.filter(finished_at__lt=Now() - older_than)
    keys = list(old.values_list("pk", flat=True)[:limit])
    return rows.filter(pk__in=keys).delete()[0]
