from __future__ import annotations

from django.db import models


class Entry(models.Model):
    """A record of each event, for the tests."""

    text = models.CharField(max_length=200)

    def __str__(self) -> str:
        return self.text

    @classmethod
    def add_once(cls, text: str) -> bool:
        return cls.objects.get_or_create(text=text)[1]


class Order(models.Model):
    customer = models.EmailField()
    amount = models.IntegerField(default=1)
    price = models.IntegerField(default=0)
    is_paid = models.BooleanField(default=False)

    def __str__(self) -> str:
        return f"{self.pk} of {self.customer}"

    def log(self, text: str) -> None:
        Entry.objects.create(text=f"order {self.pk}: {text}")


class DayTotal(models.Model):
    day = models.CharField(max_length=10, unique=True)
    total = models.IntegerField()

    def __str__(self) -> str:
        return self.day


class Product(models.Model):
    name = models.CharField(max_length=50, unique=True)
    stock = models.IntegerField(default=0)
    price = models.IntegerField(default=0)
    shard = models.IntegerField(null=True)
    source = models.CharField(max_length=20, default="", blank=True)

    def __str__(self) -> str:
        return self.name
