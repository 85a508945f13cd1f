from django.db import models


class Order(models.Model):
    number = models.BigIntegerField(primary_key=True)

    class Meta:
        app_label = "datastore_site"

    def __str__(self) -> str:
        return str(self.number)


class Visit(models.Model):
    """What a task has done with an order, or another name."""

    name = models.CharField(max_length=100, primary_key=True)
    times = models.IntegerField(default=0)
    size = models.BigIntegerField(default=0)

    class Meta:
        app_label = "datastore_site"

    def __str__(self) -> str:
        return self.name
