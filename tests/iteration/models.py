"""What the tests of iteration walk, and where their callbacks leave traces."""

from __future__ import annotations

import os
import uuid

from django.contrib.contenttypes.fields import GenericForeignKey, GenericRelation
from django.contrib.contenttypes.models import ContentType
from django.db import models

# An order of strings that Python's is not: "a" < "B" < "c".
LINGUISTIC = {
    "postgres": "und-x-icu",
    "mysql": "utf8mb4_unicode_ci",
    "sqlite": "NOCASE",
}[os.environ.get("CLOUDTASK_TEST_DATABASE", "sqlite")]


class Tag(models.Model):
    # Without a constraint: tables of apps without migrations are made first.
    kind = models.ForeignKey(ContentType, models.CASCADE, db_constraint=False)
    place = models.BigIntegerField()
    of = GenericForeignKey("kind", "place")

    def __str__(self) -> str:
        return f"{self.kind} {self.place}"


class Thing(models.Model):
    id = models.BigIntegerField(primary_key=True)
    size = models.IntegerField(default=0)
    tags = GenericRelation(Tag, "place", "kind")

    def __str__(self) -> str:
        return str(self.id)


class Ticket(models.Model):
    id = models.UUIDField(primary_key=True, default=uuid.uuid4)

    def __str__(self) -> str:
        return str(self.id)


class Word(models.Model):
    text = models.CharField(max_length=40, primary_key=True, db_collation=LINGUISTIC)

    def __str__(self) -> str:
        return self.text


class Seat(models.Model):
    pk = models.CompositePrimaryKey("row", "number")
    row = models.IntegerField()
    number = models.IntegerField()

    def __str__(self) -> str:
        return f"{self.row}-{self.number}"


class Effect(models.Model):
    """What a callback wrote for a row."""

    key = models.CharField(max_length=100, db_index=True)

    def __str__(self) -> str:
        return self.key
