from django.db import models


class Entry(models.Model):
    """A row that a task wrote."""

    text = models.CharField(max_length=200, db_index=True)
    task_name = models.CharField(max_length=500)
    attempt = models.IntegerField()
    written_at = models.FloatField()  # unix seconds

    def __str__(self) -> str:
        return self.text


class Delivery(models.Model):
    """A request that reached the handler, as it was on the wire."""

    task_name = models.CharField(max_length=500, db_index=True)
    path = models.CharField(max_length=500)
    headers = models.JSONField()
    received_at = models.FloatField()  # unix seconds
    status = models.IntegerField()

    def __str__(self) -> str:
        return f"{self.task_name}: {self.status}"
