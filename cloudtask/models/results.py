"""The table of results: of tasks with `keep_result`, and of `django.tasks`.

`call`, `value` and `errors` are sealed, since their bytes are decoded. Anyone who can
write to the table must not decide what they are decoded to.
"""

from __future__ import annotations

from datetime import timedelta

from django.db import models
from django.db.models.functions import Now


class TaskResultRow(models.Model):
    """The result of one call.

    A task of `django.tasks` has a `backend` and a `call`, which `backend.task_results`
    reads. A task with `keep_result` has neither, but `expires_at`: see
    `stores.database.results`.
    """

    id = models.CharField(max_length=64, primary_key=True)
    task = models.CharField(max_length=500, db_index=True)
    backend = models.CharField(max_length=200, blank=True, default="")
    queue = models.CharField(max_length=200)
    status = models.CharField(max_length=12, db_index=True)
    call = models.BinaryField(default=b"")
    value = models.BinaryField(null=True)
    errors = models.BinaryField(null=True)
    worker_ids = models.JSONField(default=list)
    enqueued_at = models.DateTimeField()
    started_at = models.DateTimeField(null=True)
    last_attempted_at = models.DateTimeField(null=True)
    finished_at = models.DateTimeField(null=True, db_index=True)
    expires_at = models.DateTimeField(null=True, db_index=True)

    class Meta:
        verbose_name = "task result"
        indexes = [
            models.Index(fields=["enqueued_at", "id"], name="cloudtask_result_age"),
        ]

    def __str__(self) -> str:
        return f"{self.task} ({self.id})"


def prune(alias: str, older_than: timedelta, limit: int = 10_000) -> int:
    """Forget results of `django.tasks` that ended longer ago; how many."""
    rows = TaskResultRow.objects.using(alias).exclude(backend="")
    old = rows.filter(finished_at__lt=Now() - older_than)
    keys = list(old.values_list("pk", flat=True)[:limit])
    return rows.filter(pk__in=keys).delete()[0]
