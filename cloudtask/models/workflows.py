"""The tables of groups. `rest` and `value` are sealed, since they are decoded."""

from __future__ import annotations

from django.db import models
from django.db.models.functions import Now


class WorkflowGroup(models.Model):
    """Calls that run side by side, and what follows once all have a value."""

    id = models.CharField(max_length=64, primary_key=True)
    total = models.PositiveIntegerField()
    rest = models.BinaryField()
    is_done = models.BooleanField(default=False)
    is_partial = models.BooleanField(default=False)
    created_at = models.DateTimeField(db_default=Now())
    touched_at = models.DateTimeField(db_default=Now(), db_index=True)

    class Meta:
        verbose_name = "group"
        indexes = [
            models.Index(fields=["created_at", "id"], name="cloudtask_group_age"),
        ]

    def __str__(self) -> str:
        return f"{self.id} of {self.total}"


class WorkflowMember(models.Model):
    """The value of one member of a group, or its failure."""

    group = models.ForeignKey(WorkflowGroup, models.CASCADE, related_name="members")
    place = models.PositiveIntegerField()
    value = models.BinaryField()
    has_failed = models.BooleanField(default=False)

    class Meta:
        verbose_name = "member of a group"
        verbose_name_plural = "members of groups"
        constraints = [
            models.UniqueConstraint(
                fields=["group", "place"], name="cloudtask_group_member"
            )
        ]

    def __str__(self) -> str:
        return f"{self.group_id}[{self.place}]"
