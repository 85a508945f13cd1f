"""The tables that the examples of the pages are about."""

from __future__ import annotations

from django.contrib.auth.models import User
from django.db import models


class Order(models.Model):
    # Without a constraint: this table is made before those of apps with migrations.
    customer = models.ForeignKey(User, models.CASCADE, null=True, db_constraint=False)
    paid = models.BooleanField(default=False)

    def __str__(self) -> str:
        return f"order {self.pk}"

    def receipt(self) -> str:
        return f"You have paid order {self.pk}."


class Author(models.Model):
    born = models.IntegerField()

    def __str__(self) -> str:
        return f"author {self.pk}"


class Book(models.Model):
    old = models.BooleanField(default=False)
    slug = models.SlugField()
    pages = models.IntegerField(default=0)
    views = models.IntegerField(default=0)

    def __str__(self) -> str:
        return self.slug


class Tally(models.Model):
    shard = models.IntegerField()
    pages = models.IntegerField(default=0)

    def __str__(self) -> str:
        return f"{self.pages} pages"
