"""Rows that calls are about, and rows that iterations change."""

from __future__ import annotations

from django.db import models


class Order(models.Model):
    """A row that a transaction writes before it enqueues."""

    number = models.BigIntegerField()

    def __str__(self) -> str:
        return str(self.number)


class Row(models.Model):
    """A row that an iteration changes by an UPDATE of its own."""

    size = models.IntegerField(default=0)

    def __str__(self) -> str:
        return str(self.pk)
