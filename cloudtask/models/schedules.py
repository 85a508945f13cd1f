"""The table of schedules. It holds plain values only; nothing in it is decoded."""

from __future__ import annotations

from django.db import models
from django.db.models.functions import Now


class ScheduleRow(models.Model):
    """How far a declared schedule was dealt with.

    `last_at` is the latest moment that was dealt with. `version` grows with each
    change, so that one of several ticks makes it. `running` is the call that has the
    schedule until `running_until`, if its calls must not overlap.
    """

    key = models.CharField(max_length=200, primary_key=True)
    task = models.CharField(max_length=500)
    schedule = models.CharField(max_length=500)
    last_at = models.DateTimeField()
    enabled = models.BooleanField(default=True)
    version = models.PositiveBigIntegerField(default=0)
    enqueued_at = models.DateTimeField(null=True)
    missed = models.PositiveBigIntegerField(default=0)
    skipped = models.PositiveBigIntegerField(default=0)
    running = models.CharField(max_length=80, default="", blank=True)
    running_until = models.DateTimeField(null=True)
    seen_at = models.DateTimeField(db_default=Now(), db_index=True)

    class Meta:
        verbose_name = "schedule"

    def __str__(self) -> str:
        return f"{self.key}: {self.schedule}"
