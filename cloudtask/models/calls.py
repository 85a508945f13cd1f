"""Defines the tables of calls. Times are the database's own."""

from __future__ import annotations

from django.db import models
from django.db.models.functions import Now


class OutboxMessage(models.Model):
    """A message that waits for its commit, or survived it unsent."""

    class State(models.TextChoices):
        WAITING = "waiting"
        PARKED = "parked"

    key = models.CharField(max_length=80, primary_key=True)
    task = models.CharField(max_length=500)
    queue = models.CharField(max_length=100)
    envelope = models.BinaryField()
    state = models.CharField(
        max_length=10, choices=State.choices, default=State.WAITING
    )
    created_at = models.DateTimeField(db_default=Now())
    due_at = models.DateTimeField(db_default=Now())
    attempts = models.PositiveIntegerField(default=0)
    error = models.TextField(blank=True, default="")

    class Meta:
        verbose_name = "outbox message"
        indexes = [
            models.Index(fields=["state", "created_at"], name="cloudtask_outbox_age"),
        ]

    def __str__(self) -> str:
        return f"{self.task} ({self.key})"


class Payload(models.Model):
    """An encoded call that is too large to travel; its data lies in chunks."""

    key = models.CharField(max_length=80, primary_key=True)
    size = models.PositiveBigIntegerField()
    saved_at = models.DateTimeField(db_default=Now(), db_index=True)
    is_done = models.BooleanField(default=False)

    def __str__(self) -> str:
        return self.key


class PayloadChunk(models.Model):
    payload = models.ForeignKey(Payload, models.CASCADE, related_name="chunks")
    index = models.PositiveIntegerField()
    data = models.BinaryField()

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["payload", "index"], name="cloudtask_payload_chunk"
            )
        ]

    def __str__(self) -> str:
        return f"{self.payload_id}[{self.index}]"


class FailedTask(models.Model):
    """A call that will not be tried again by itself."""

    key = models.CharField(max_length=80, primary_key=True)
    task = models.CharField(max_length=500)
    kind = models.CharField(max_length=300, default="", db_default="")
    group = models.CharField(max_length=32, default="", db_default="")
    queue = models.CharField(max_length=100)
    name = models.CharField(max_length=500)
    envelope = models.BinaryField()
    arguments = models.TextField(blank=True)
    error = models.TextField()
    traceback = models.TextField()
    attempts = models.PositiveIntegerField()
    enqueued_at = models.DateTimeField()
    failed_at = models.DateTimeField(db_default=Now(), db_index=True)

    class Meta:
        verbose_name = "failed task"
        indexes = [
            models.Index(
                fields=["group", "failed_at", "key"], name="cloudtask_failed_group"
            ),
            models.Index(
                fields=["task", "failed_at", "key"], name="cloudtask_failed_task"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.task} ({self.key})"


class LateStart(models.Model):
    """How often a call began although its attempts were used up: by deliveries of which
    nobody knows whether they reached the function."""

    key = models.CharField(max_length=80, primary_key=True)
    starts = models.PositiveIntegerField(default=0)
    noted_at = models.DateTimeField(db_default=Now(), db_index=True)

    class Meta:
        verbose_name = "late start"

    def __str__(self) -> str:
        return f"{self.key}: {self.starts}"


class Execution(models.Model):
    """The record that an atomic task ran, committed together with its effects.

    With `is_cancelled` it did not run, and never will.
    """

    id = models.CharField(max_length=80, primary_key=True)
    task = models.CharField(max_length=500)
    ran_at = models.DateTimeField(db_default=Now(), db_index=True)
    is_cancelled = models.BooleanField(default=False, db_default=False)

    def __str__(self) -> str:
        return f"{self.task} ({self.id})"


class CallMark(models.Model):
    """Whether a call that can be cancelled has begun, and whether it was cancelled."""

    key = models.CharField(max_length=80, primary_key=True)
    is_begun = models.BooleanField(default=False)
    is_cancelled = models.BooleanField(default=False)
    noted_at = models.DateTimeField(db_default=Now(), db_index=True)

    class Meta:
        verbose_name = "mark of a call"
        verbose_name_plural = "marks of calls"

    def __str__(self) -> str:
        return self.key


class UniqueKey(models.Model):
    """The one waiting call of a `unique` task and key.

    `seal` covers what a receipt is made of. Else someone could let the receipt of one
    call lead to the result of another.
    """

    key = models.CharField(max_length=64, primary_key=True)
    task = models.CharField(max_length=500)
    message = models.CharField(max_length=80)
    name = models.CharField(max_length=500)
    queue = models.CharField(max_length=100)
    expires_at = models.DateTimeField(db_index=True)
    seal = models.CharField(max_length=80)

    def __str__(self) -> str:
        return f"{self.task} ({self.message})"


class UpkeepNote(models.Model):
    """When a regular job of the library, such as the relay, last ended well."""

    job = models.CharField(max_length=40, primary_key=True)
    ran_at = models.DateTimeField(db_default=Now())
    report = models.TextField(blank=True, default="")

    class Meta:
        verbose_name = "upkeep note"

    def __str__(self) -> str:
        return f"{self.job}: {self.ran_at}"
