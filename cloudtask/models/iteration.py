"""Defines the tables of iteration; `cloudtask.models` makes them known to Django."""

from __future__ import annotations

from django.db import models
from django.db.models.functions import Now

from cloudtask.runs import FailureState, RunState, ShardState


def _choices(
    states: type[RunState | ShardState | FailureState],
) -> list[tuple[str, str]]:
    return [(state.value, state.value) for state in states]


class IterationRun(models.Model):
    """A queryset being walked; see `runs.Run`."""

    id = models.CharField(max_length=32, primary_key=True)
    task = models.CharField(max_length=500)
    queue = models.CharField(max_length=100)
    state = models.CharField(max_length=12, choices=_choices(RunState), db_index=True)
    description = models.BinaryField()
    options = models.BinaryField(default=b"")
    is_planned = models.BooleanField(default=False)
    part = models.PositiveIntegerField(default=0, db_default=0)
    rest = models.TextField(null=True)
    keep = models.BooleanField(default=False)
    total = models.PositiveBigIntegerField(default=0)
    is_estimated = models.BooleanField(default=False, db_default=False)
    generation = models.PositiveIntegerField(default=0)
    fence = models.PositiveIntegerField(default=0)
    attempts = models.PositiveIntegerField(default=0, db_default=0)
    lease_until = models.DateTimeField(null=True)
    error = models.TextField(blank=True, default="")
    waiting = models.TextField(blank=True, default="")
    leg_limit = models.FloatField(null=True)
    killed_after = models.FloatField(null=True)
    is_summary = models.BooleanField(default=False, db_default=False)
    done = models.PositiveBigIntegerField(default=0, db_default=0)
    failed = models.PositiveBigIntegerField(default=0, db_default=0)
    skipped = models.PositiveBigIntegerField(default=0, db_default=0)
    created_at = models.DateTimeField(db_default=Now())
    due_at = models.DateTimeField(null=True)
    started_at = models.DateTimeField(null=True)
    finished_at = models.DateTimeField(null=True)
    touched_at = models.DateTimeField(db_default=Now())
    version = models.PositiveBigIntegerField(default=0, db_default=0)

    class Meta:
        verbose_name = "iteration"
        indexes = [
            models.Index(fields=["created_at", "id"], name="cloudtask_run_age"),
        ]

    def __str__(self) -> str:
        return f"{self.task} ({self.id})"


class IterationChunk(models.Model):
    """A part of a description that is too large for one statement."""

    run = models.ForeignKey(IterationRun, models.CASCADE, related_name="chunks")
    index = models.PositiveIntegerField()
    data = models.BinaryField()

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["run", "index"], name="cloudtask_description_chunk"
            )
        ]

    def __str__(self) -> str:
        return f"{self.run_id}[{self.index}]"


class IterationShard(models.Model):
    """A piece of a run; see `runs.Shard`."""

    run = models.ForeignKey(IterationRun, models.CASCADE, related_name="shards")
    index = models.PositiveIntegerField()
    low = models.TextField(null=True)
    high = models.TextField(null=True)
    cursor = models.TextField(null=True)
    expected = models.PositiveBigIntegerField(default=0)
    seq = models.PositiveIntegerField(default=0)
    fence = models.PositiveIntegerField(default=0)
    state = models.CharField(
        max_length=12, choices=_choices(ShardState), default=ShardState.WAITING.value
    )
    lease_until = models.DateTimeField(null=True)
    deadline_at = models.DateTimeField(null=True)
    lived = models.FloatField(default=0.0, db_default=0.0)
    deaths = models.PositiveIntegerField(default=0)
    sweeps = models.PositiveIntegerField(default=0, db_default=0)
    suspect = models.TextField(null=True)
    is_walked = models.BooleanField(default=False)
    stride = models.PositiveBigIntegerField(null=True)
    done = models.PositiveBigIntegerField(default=0)
    failed = models.PositiveBigIntegerField(default=0)
    skipped = models.PositiveBigIntegerField(default=0)
    touched_at = models.DateTimeField(db_default=Now())
    version = models.PositiveBigIntegerField(default=0, db_default=0)

    class Meta:
        verbose_name = "iteration shard"
        constraints = [
            models.UniqueConstraint(
                fields=["run", "index"], name="cloudtask_shard_index"
            )
        ]

    def __str__(self) -> str:
        return f"{self.run_id}[{self.index}]"


class IterationFailure(models.Model):
    """A row whose callback raised; see `runs.RowFailure`.

    Keys can be longer than an index takes, so their digest is unique instead.
    """

    run = models.ForeignKey(IterationRun, models.CASCADE, related_name="failures")
    digest = models.CharField(max_length=64)
    key = models.TextField()
    shard = models.PositiveIntegerField()
    state = models.CharField(max_length=12, choices=_choices(FailureState))
    attempts = models.PositiveIntegerField(default=1)
    error = models.TextField(blank=True)
    traceback = models.TextField(blank=True)
    due_at = models.DateTimeField()

    class Meta:
        verbose_name = "iteration failure"
        constraints = [
            models.UniqueConstraint(
                fields=["run", "digest"], name="cloudtask_failure_key"
            )
        ]
        indexes = [
            models.Index(
                fields=["run", "shard", "state", "due_at"], name="cloudtask_failure_due"
            )
        ]

    def __str__(self) -> str:
        return f"{self.run_id}: {self.key}"
