"""Models whose rows the tests iterate over, and in which callbacks leave traces."""

from __future__ import annotations

import os
import uuid
from typing import ClassVar

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


class Booking(models.Model):
    """Of its key one column is a foreign key."""

    pk = models.CompositePrimaryKey("thing_id", "day")
    thing = models.ForeignKey(Thing, models.CASCADE)
    day = models.DateField()

    def __str__(self) -> str:
        return f"{self.thing_id} on {self.day}"


class Brittle(Thing):
    """Things of which some can't be read."""

    broken: ClassVar[set[int]] = set()

    class Meta:
        proxy = True

    @classmethod
    def from_db(cls, db, field_names, values, **options):
        if values[0] in cls.broken:
            raise ValueError(f"{values[0]} is broken")
        return super().from_db(db, field_names, values, **options)


class Odd:
    """A value that equals no other: no field reads back what it has written."""

    def __init__(self, text: str) -> None:
        self.text = text

    def __str__(self) -> str:
        return self.text


class OddField(models.CharField):
    def from_db_value(self, value, expression, connection):
        return self.to_python(value)

    def to_python(self, value):
        return Odd(value) if isinstance(value, str) else value

    def get_prep_value(self, value):
        return value.text if isinstance(value, Odd) else value


class Mark(models.Model):
    """Its keys are of a type that can't travel."""

    at = OddField(max_length=20, primary_key=True)

    def __str__(self) -> str:
        return str(self.at)


class Effect(models.Model):
    """A row that a callback wrote."""

    key = models.CharField(max_length=100, db_index=True)

    def __str__(self) -> str:
        return self.key


class Level(models.Model):
    """Its keys may be NaN in PostgreSQL, as those of Amount."""

    at = models.FloatField(primary_key=True)

    def __str__(self) -> str:
        return str(self.at)


class Amount(models.Model):
    at = models.DecimalField(max_digits=8, decimal_places=2, primary_key=True)

    def __str__(self) -> str:
        return str(self.at)
