"""Creates all tables of the library."""

import django.db.models.deletion
import django.db.models.functions.datetime
from django.db import migrations, models


class Migration(migrations.Migration):
    initial = True

    dependencies = []

    operations = [
        migrations.CreateModel(
            name="Doctor",
            fields=[
                (
                    "id",
                    models.CharField(max_length=80, primary_key=True, serialize=False),
                ),
            ],
            options={
                "verbose_name": "doctor",
                "verbose_name_plural": "doctor",
                "permissions": [("run_doctor", "Can run the doctor")],
                "managed": False,
                "default_permissions": (),
            },
        ),
        migrations.CreateModel(
            name="Failed",
            fields=[
                (
                    "id",
                    models.CharField(max_length=80, primary_key=True, serialize=False),
                ),
            ],
            options={
                "verbose_name": "failed task",
                "permissions": [
                    ("view_failed", "Can see failed tasks"),
                    ("view_failed_details", "Can see arguments and tracebacks"),
                    ("retry_failed", "Can retry failed tasks"),
                    ("discard_failed", "Can discard failed tasks"),
                ],
                "managed": False,
                "default_permissions": (),
            },
        ),
        migrations.CreateModel(
            name="Call",
            fields=[
                (
                    "id",
                    models.CharField(max_length=80, primary_key=True, serialize=False),
                ),
            ],
            options={
                "permissions": [
                    ("view_call", "Can find calls, and see what waits in queues"),
                    ("cancel_call", "Can cancel calls, chains and groups"),
                ],
                "managed": False,
                "default_permissions": (),
            },
        ),
        migrations.CreateModel(
            name="Group",
            fields=[
                (
                    "id",
                    models.CharField(max_length=80, primary_key=True, serialize=False),
                ),
            ],
            options={
                "permissions": [("view_group", "Can see groups of calls")],
                "managed": False,
                "default_permissions": (),
            },
        ),
        migrations.CreateModel(
            name="Iteration",
            fields=[
                (
                    "id",
                    models.CharField(max_length=80, primary_key=True, serialize=False),
                ),
            ],
            options={
                "permissions": [
                    ("view_iteration", "Can see iterations"),
                    (
                        "control_iteration",
                        "Can pause, resume, cancel and retry iterations",
                    ),
                ],
                "managed": False,
                "default_permissions": (),
            },
        ),
        migrations.CreateModel(
            name="Outbox",
            fields=[
                (
                    "id",
                    models.CharField(max_length=200, primary_key=True, serialize=False),
                ),
            ],
            options={
                "verbose_name": "outbox",
                "verbose_name_plural": "outbox",
                "permissions": [
                    ("view_outbox", "Can see the outbox"),
                    ("release_outbox", "Can release parked messages"),
                ],
                "managed": False,
                "default_permissions": (),
            },
        ),
        migrations.CreateModel(
            name="Overview",
            fields=[
                (
                    "id",
                    models.CharField(max_length=80, primary_key=True, serialize=False),
                ),
            ],
            options={
                "verbose_name": "overview",
                "verbose_name_plural": "overview",
                "managed": False,
                "default_permissions": (),
            },
        ),
        migrations.CreateModel(
            name="Queue",
            fields=[
                (
                    "id",
                    models.CharField(max_length=100, primary_key=True, serialize=False),
                ),
            ],
            options={
                "permissions": [
                    ("view_queue", "Can see queues"),
                    ("control_queue", "Can pause and resume queues"),
                    ("purge_queue", "Can purge queues"),
                ],
                "managed": False,
                "default_permissions": (),
            },
        ),
        migrations.CreateModel(
            name="Result",
            fields=[
                (
                    "id",
                    models.CharField(max_length=80, primary_key=True, serialize=False),
                ),
            ],
            options={
                "permissions": [("view_result", "Can see results of tasks")],
                "managed": False,
                "default_permissions": (),
            },
        ),
        migrations.CreateModel(
            name="Schedule",
            fields=[
                (
                    "id",
                    models.CharField(max_length=200, primary_key=True, serialize=False),
                ),
            ],
            options={
                "permissions": [
                    ("view_schedule", "Can see schedules"),
                    ("control_schedule", "Can switch schedules, and run their tasks"),
                ],
                "managed": False,
                "default_permissions": (),
            },
        ),
        migrations.CreateModel(
            name="Task",
            fields=[
                (
                    "id",
                    models.CharField(max_length=500, primary_key=True, serialize=False),
                ),
            ],
            options={
                "permissions": [("view_task", "Can see the known tasks")],
                "managed": False,
                "default_permissions": (),
            },
        ),
        migrations.CreateModel(
            name="Execution",
            fields=[
                (
                    "id",
                    models.CharField(max_length=80, primary_key=True, serialize=False),
                ),
                ("task", models.CharField(max_length=500)),
                (
                    "ran_at",
                    models.DateTimeField(
                        db_default=django.db.models.functions.datetime.Now(),
                        db_index=True,
                    ),
                ),
                ("is_cancelled", models.BooleanField(db_default=False, default=False)),
            ],
        ),
        migrations.CreateModel(
            name="CallMark",
            fields=[
                (
                    "key",
                    models.CharField(max_length=80, primary_key=True, serialize=False),
                ),
                ("is_begun", models.BooleanField(default=False)),
                ("is_cancelled", models.BooleanField(default=False)),
                (
                    "noted_at",
                    models.DateTimeField(
                        db_default=django.db.models.functions.datetime.Now(),
                        db_index=True,
                    ),
                ),
            ],
            options={
                "verbose_name": "mark of a call",
                "verbose_name_plural": "marks of calls",
            },
        ),
        migrations.CreateModel(
            name="LateStart",
            fields=[
                (
                    "key",
                    models.CharField(max_length=80, primary_key=True, serialize=False),
                ),
                ("starts", models.PositiveIntegerField(default=0)),
                (
                    "noted_at",
                    models.DateTimeField(
                        db_default=django.db.models.functions.datetime.Now(),
                        db_index=True,
                    ),
                ),
            ],
            options={
                "verbose_name": "late start",
            },
        ),
        migrations.CreateModel(
            name="Payload",
            fields=[
                (
                    "key",
                    models.CharField(max_length=80, primary_key=True, serialize=False),
                ),
                ("size", models.PositiveBigIntegerField()),
                (
                    "saved_at",
                    models.DateTimeField(
                        db_default=django.db.models.functions.datetime.Now(),
                        db_index=True,
                    ),
                ),
                ("is_done", models.BooleanField(default=False)),
            ],
        ),
        migrations.CreateModel(
            name="ScheduleRow",
            fields=[
                (
                    "key",
                    models.CharField(max_length=200, primary_key=True, serialize=False),
                ),
                ("task", models.CharField(max_length=500)),
                ("schedule", models.CharField(max_length=500)),
                ("last_at", models.DateTimeField()),
                ("enabled", models.BooleanField(default=True)),
                ("version", models.PositiveBigIntegerField(default=0)),
                ("enqueued_at", models.DateTimeField(null=True)),
                ("missed", models.PositiveBigIntegerField(default=0)),
                ("skipped", models.PositiveBigIntegerField(default=0)),
                (
                    "running",
                    models.CharField(blank=True, default="", max_length=80),
                ),
                ("running_until", models.DateTimeField(null=True)),
                (
                    "seen_at",
                    models.DateTimeField(
                        db_default=django.db.models.functions.datetime.Now(),
                        db_index=True,
                    ),
                ),
            ],
            options={
                "verbose_name": "schedule",
            },
        ),
        migrations.CreateModel(
            name="UniqueKey",
            fields=[
                (
                    "key",
                    models.CharField(max_length=64, primary_key=True, serialize=False),
                ),
                ("task", models.CharField(max_length=500)),
                ("message", models.CharField(max_length=80)),
                ("name", models.CharField(max_length=500)),
                ("queue", models.CharField(max_length=100)),
                ("expires_at", models.DateTimeField(db_index=True)),
                ("seal", models.CharField(max_length=80)),
            ],
        ),
        migrations.CreateModel(
            name="UpkeepNote",
            fields=[
                (
                    "job",
                    models.CharField(max_length=40, primary_key=True, serialize=False),
                ),
                (
                    "ran_at",
                    models.DateTimeField(
                        db_default=django.db.models.functions.datetime.Now()
                    ),
                ),
                ("report", models.TextField(blank=True, default="")),
            ],
            options={
                "verbose_name": "upkeep note",
            },
        ),
        migrations.CreateModel(
            name="FailedTask",
            fields=[
                (
                    "key",
                    models.CharField(max_length=80, primary_key=True, serialize=False),
                ),
                ("task", models.CharField(max_length=500)),
                ("kind", models.CharField(db_default="", default="", max_length=300)),
                ("group", models.CharField(db_default="", default="", max_length=32)),
                ("queue", models.CharField(max_length=100)),
                ("name", models.CharField(max_length=500)),
                ("envelope", models.BinaryField()),
                ("arguments", models.TextField(blank=True)),
                ("error", models.TextField()),
                ("traceback", models.TextField()),
                ("attempts", models.PositiveIntegerField()),
                ("enqueued_at", models.DateTimeField()),
                (
                    "failed_at",
                    models.DateTimeField(
                        db_default=django.db.models.functions.datetime.Now(),
                        db_index=True,
                    ),
                ),
            ],
            options={
                "verbose_name": "failed task",
                "indexes": [
                    models.Index(
                        fields=["group", "failed_at", "key"],
                        name="cloudtask_failed_group",
                    ),
                    models.Index(
                        fields=["task", "failed_at", "key"],
                        name="cloudtask_failed_task",
                    ),
                ],
            },
        ),
        migrations.CreateModel(
            name="IterationRun",
            fields=[
                (
                    "id",
                    models.CharField(max_length=32, primary_key=True, serialize=False),
                ),
                ("task", models.CharField(max_length=500)),
                ("queue", models.CharField(max_length=100)),
                (
                    "state",
                    models.CharField(
                        choices=[
                            ("waiting", "waiting"),
                            ("planning", "planning"),
                            ("running", "running"),
                            ("paused", "paused"),
                            ("finalizing", "finalizing"),
                            ("finished", "finished"),
                            ("cancelled", "cancelled"),
                            ("aborted", "aborted"),
                            ("failed", "failed"),
                            ("rolled_back", "rolled_back"),
                        ],
                        db_index=True,
                        max_length=12,
                    ),
                ),
                ("description", models.BinaryField()),
                ("options", models.BinaryField(default=b"")),
                ("is_planned", models.BooleanField(default=False)),
                ("part", models.PositiveIntegerField(db_default=0, default=0)),
                ("rest", models.TextField(null=True)),
                ("keep", models.BooleanField(default=False)),
                ("total", models.PositiveBigIntegerField(default=0)),
                ("is_estimated", models.BooleanField(db_default=False, default=False)),
                ("generation", models.PositiveIntegerField(default=0)),
                ("fence", models.PositiveIntegerField(default=0)),
                ("attempts", models.PositiveIntegerField(db_default=0, default=0)),
                ("lease_until", models.DateTimeField(null=True)),
                ("error", models.TextField(blank=True, default="")),
                ("waiting", models.TextField(blank=True, default="")),
                ("leg_limit", models.FloatField(null=True)),
                ("killed_after", models.FloatField(null=True)),
                ("is_summary", models.BooleanField(db_default=False, default=False)),
                ("done", models.PositiveBigIntegerField(db_default=0, default=0)),
                ("failed", models.PositiveBigIntegerField(db_default=0, default=0)),
                ("skipped", models.PositiveBigIntegerField(db_default=0, default=0)),
                (
                    "created_at",
                    models.DateTimeField(
                        db_default=django.db.models.functions.datetime.Now()
                    ),
                ),
                ("due_at", models.DateTimeField(null=True)),
                ("started_at", models.DateTimeField(null=True)),
                ("finished_at", models.DateTimeField(null=True)),
                (
                    "touched_at",
                    models.DateTimeField(
                        db_default=django.db.models.functions.datetime.Now()
                    ),
                ),
                ("version", models.PositiveBigIntegerField(db_default=0, default=0)),
            ],
            options={
                "verbose_name": "iteration",
                "indexes": [
                    models.Index(fields=["created_at", "id"], name="cloudtask_run_age")
                ],
            },
        ),
        migrations.CreateModel(
            name="OutboxMessage",
            fields=[
                (
                    "key",
                    models.CharField(max_length=80, primary_key=True, serialize=False),
                ),
                ("task", models.CharField(max_length=500)),
                ("queue", models.CharField(max_length=100)),
                ("envelope", models.BinaryField()),
                (
                    "state",
                    models.CharField(
                        choices=[("waiting", "Waiting"), ("parked", "Parked")],
                        default="waiting",
                        max_length=10,
                    ),
                ),
                (
                    "created_at",
                    models.DateTimeField(
                        db_default=django.db.models.functions.datetime.Now()
                    ),
                ),
                (
                    "due_at",
                    models.DateTimeField(
                        db_default=django.db.models.functions.datetime.Now()
                    ),
                ),
                ("attempts", models.PositiveIntegerField(default=0)),
                ("error", models.TextField(blank=True, default="")),
            ],
            options={
                "verbose_name": "outbox message",
                "indexes": [
                    models.Index(
                        fields=["state", "created_at"], name="cloudtask_outbox_age"
                    )
                ],
            },
        ),
        migrations.CreateModel(
            name="TaskResultRow",
            fields=[
                (
                    "id",
                    models.CharField(max_length=64, primary_key=True, serialize=False),
                ),
                ("task", models.CharField(db_index=True, max_length=500)),
                ("backend", models.CharField(blank=True, default="", max_length=200)),
                ("queue", models.CharField(max_length=200)),
                ("status", models.CharField(db_index=True, max_length=12)),
                ("call", models.BinaryField(default=b"")),
                ("value", models.BinaryField(null=True)),
                ("errors", models.BinaryField(null=True)),
                ("worker_ids", models.JSONField(default=list)),
                ("enqueued_at", models.DateTimeField()),
                ("started_at", models.DateTimeField(null=True)),
                ("last_attempted_at", models.DateTimeField(null=True)),
                ("finished_at", models.DateTimeField(db_index=True, null=True)),
                ("expires_at", models.DateTimeField(db_index=True, null=True)),
            ],
            options={
                "verbose_name": "task result",
                "indexes": [
                    models.Index(
                        fields=["enqueued_at", "id"], name="cloudtask_result_age"
                    )
                ],
            },
        ),
        migrations.CreateModel(
            name="WorkflowGroup",
            fields=[
                (
                    "id",
                    models.CharField(max_length=64, primary_key=True, serialize=False),
                ),
                ("total", models.PositiveIntegerField()),
                ("rest", models.BinaryField()),
                ("is_done", models.BooleanField(default=False)),
                ("is_partial", models.BooleanField(default=False)),
                (
                    "created_at",
                    models.DateTimeField(
                        db_default=django.db.models.functions.datetime.Now()
                    ),
                ),
                (
                    "touched_at",
                    models.DateTimeField(
                        db_default=django.db.models.functions.datetime.Now(),
                        db_index=True,
                    ),
                ),
            ],
            options={
                "verbose_name": "group",
                "indexes": [
                    models.Index(
                        fields=["created_at", "id"], name="cloudtask_group_age"
                    )
                ],
            },
        ),
        migrations.CreateModel(
            name="IterationFailure",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True,
                        primary_key=True,
                        serialize=False,
                        verbose_name="ID",
                    ),
                ),
                ("digest", models.CharField(max_length=64)),
                ("key", models.TextField()),
                ("shard", models.PositiveIntegerField()),
                (
                    "state",
                    models.CharField(
                        choices=[
                            ("waiting", "waiting"),
                            ("stopped", "stopped"),
                            ("failed", "failed"),
                            ("killed", "killed"),
                        ],
                        max_length=12,
                    ),
                ),
                ("attempts", models.PositiveIntegerField(default=1)),
                ("error", models.TextField(blank=True)),
                ("traceback", models.TextField(blank=True)),
                ("due_at", models.DateTimeField()),
                (
                    "run",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="failures",
                        to="cloudtask.iterationrun",
                    ),
                ),
            ],
            options={
                "verbose_name": "iteration failure",
                "indexes": [
                    models.Index(
                        fields=["run", "shard", "state", "due_at"],
                        name="cloudtask_failure_due",
                    )
                ],
                "constraints": [
                    models.UniqueConstraint(
                        fields=("run", "digest"), name="cloudtask_failure_key"
                    )
                ],
            },
        ),
        migrations.CreateModel(
            name="IterationChunk",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True,
                        primary_key=True,
                        serialize=False,
                        verbose_name="ID",
                    ),
                ),
                ("index", models.PositiveIntegerField()),
                ("data", models.BinaryField()),
                (
                    "run",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="chunks",
                        to="cloudtask.iterationrun",
                    ),
                ),
            ],
            options={
                "constraints": [
                    models.UniqueConstraint(
                        fields=("run", "index"), name="cloudtask_description_chunk"
                    )
                ],
            },
        ),
        migrations.CreateModel(
            name="IterationShard",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True,
                        primary_key=True,
                        serialize=False,
                        verbose_name="ID",
                    ),
                ),
                ("index", models.PositiveIntegerField()),
                ("low", models.TextField(null=True)),
                ("high", models.TextField(null=True)),
                ("cursor", models.TextField(null=True)),
                ("expected", models.PositiveBigIntegerField(default=0)),
                ("seq", models.PositiveIntegerField(default=0)),
                ("fence", models.PositiveIntegerField(default=0)),
                (
                    "state",
                    models.CharField(
                        choices=[
                            ("waiting", "waiting"),
                            ("running", "running"),
                            ("done", "done"),
                        ],
                        default="waiting",
                        max_length=12,
                    ),
                ),
                ("lease_until", models.DateTimeField(null=True)),
                ("deadline_at", models.DateTimeField(null=True)),
                ("lived", models.FloatField(db_default=0.0, default=0.0)),
                ("deaths", models.PositiveIntegerField(default=0)),
                ("sweeps", models.PositiveIntegerField(db_default=0, default=0)),
                ("suspect", models.TextField(null=True)),
                ("is_walked", models.BooleanField(default=False)),
                ("stride", models.PositiveBigIntegerField(null=True)),
                ("done", models.PositiveBigIntegerField(default=0)),
                ("failed", models.PositiveBigIntegerField(default=0)),
                ("skipped", models.PositiveBigIntegerField(default=0)),
                (
                    "touched_at",
                    models.DateTimeField(
                        db_default=django.db.models.functions.datetime.Now()
                    ),
                ),
                ("version", models.PositiveBigIntegerField(db_default=0, default=0)),
                (
                    "run",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="shards",
                        to="cloudtask.iterationrun",
                    ),
                ),
            ],
            options={
                "verbose_name": "iteration shard",
                "constraints": [
                    models.UniqueConstraint(
                        fields=("run", "index"), name="cloudtask_shard_index"
                    )
                ],
            },
        ),
        migrations.CreateModel(
            name="PayloadChunk",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True,
                        primary_key=True,
                        serialize=False,
                        verbose_name="ID",
                    ),
                ),
                ("index", models.PositiveIntegerField()),
                ("data", models.BinaryField()),
                (
                    "payload",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="chunks",
                        to="cloudtask.payload",
                    ),
                ),
            ],
            options={
                "constraints": [
                    models.UniqueConstraint(
                        fields=("payload", "index"), name="cloudtask_payload_chunk"
                    )
                ],
            },
        ),
        migrations.CreateModel(
            name="WorkflowMember",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True,
                        primary_key=True,
                        serialize=False,
                        verbose_name="ID",
                    ),
                ),
                ("place", models.PositiveIntegerField()),
                ("value", models.BinaryField()),
                ("has_failed", models.BooleanField(default=False)),
                (
                    "group",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="members",
                        to="cloudtask.workflowgroup",
                    ),
                ),
            ],
            options={
                "verbose_name": "member of a group",
                "verbose_name_plural": "members of groups",
                "constraints": [
                    models.UniqueConstraint(
                        fields=("group", "place"), name="cloudtask_group_member"
                    )
                ],
            },
        ),
    ]
