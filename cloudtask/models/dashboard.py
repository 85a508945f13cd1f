"""The things that the dashboard shows, as Django's rights and admin need them.

They have no tables: a store keeps what they stand for. `migrate` makes the rights, and
entries of the admin's log refer to these models.
"""

from __future__ import annotations

from django.db import models


class Overview(models.Model):
    """The first page. Anyone who may see one of the others may see it."""

    id = models.CharField(max_length=80, primary_key=True)

    class Meta:
        managed = False
        default_permissions = ()
        verbose_name = verbose_name_plural = "overview"

    def __str__(self) -> str:
        return "overview"


class Iteration(models.Model):
    id = models.CharField(max_length=80, primary_key=True)

    class Meta:
        managed = False
        default_permissions = ()
        permissions = [
            ("view_iteration", "Can see iterations"),
            ("control_iteration", "Can pause, resume, cancel and retry iterations"),
        ]

    def __str__(self) -> str:
        return f"iteration {self.id}"


class Failed(models.Model):
    id = models.CharField(max_length=80, primary_key=True)

    class Meta:
        managed = False
        default_permissions = ()
        permissions = [
            ("view_failed", "Can see failed tasks"),
            ("view_failed_details", "Can see arguments and tracebacks"),
            ("retry_failed", "Can retry failed tasks"),
            ("discard_failed", "Can discard failed tasks"),
        ]
        verbose_name = "failed task"

    def __str__(self) -> str:
        return f"failed task {self.id}"


class Outbox(models.Model):
    id = models.CharField(max_length=200, primary_key=True)

    class Meta:
        managed = False
        default_permissions = ()
        permissions = [
            ("view_outbox", "Can see the outbox"),
            ("release_outbox", "Can release parked messages"),
        ]
        verbose_name = verbose_name_plural = "outbox"

    def __str__(self) -> str:
        return f"outbox {self.id}"


class Queue(models.Model):
    id = models.CharField(max_length=100, primary_key=True)

    class Meta:
        managed = False
        default_permissions = ()
        permissions = [
            ("view_queue", "Can see queues"),
            ("control_queue", "Can pause and resume queues"),
            ("purge_queue", "Can purge queues"),
        ]

    def __str__(self) -> str:
        return f"queue {self.id}"


class Task(models.Model):
    id = models.CharField(max_length=500, primary_key=True)

    class Meta:
        managed = False
        default_permissions = ()
        permissions = [("view_task", "Can see the known tasks")]

    def __str__(self) -> str:
        return f"task {self.id}"


class Result(models.Model):
    id = models.CharField(max_length=80, primary_key=True)

    class Meta:
        managed = False
        default_permissions = ()
        permissions = [("view_result", "Can see results of tasks")]

    def __str__(self) -> str:
        return f"result {self.id}"


class Schedule(models.Model):
    id = models.CharField(max_length=200, primary_key=True)

    class Meta:
        managed = False
        default_permissions = ()
        permissions = [
            ("view_schedule", "Can see schedules"),
            ("control_schedule", "Can switch schedules, and run their tasks"),
        ]

    def __str__(self) -> str:
        return f"schedule {self.id}"


class Group(models.Model):
    id = models.CharField(max_length=80, primary_key=True)

    class Meta:
        managed = False
        default_permissions = ()
        permissions = [("view_group", "Can see groups of calls")]

    def __str__(self) -> str:
        return f"group {self.id}"


class Call(models.Model):
    id = models.CharField(max_length=80, primary_key=True)

    class Meta:
        managed = False
        default_permissions = ()
        permissions = [
            ("view_call", "Can find calls, and see what waits in queues"),
            ("cancel_call", "Can cancel calls, chains and groups"),
        ]

    def __str__(self) -> str:
        return f"call {self.id}"


class Doctor(models.Model):
    id = models.CharField(max_length=80, primary_key=True)

    class Meta:
        managed = False
        default_permissions = ()
        permissions = [("run_doctor", "Can run the doctor")]
        verbose_name = verbose_name_plural = "doctor"

    def __str__(self) -> str:
        return "doctor"
