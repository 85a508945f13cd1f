from django.contrib.gis.db import models
from django.contrib.postgres import fields


class Everything(models.Model):
    point = models.PointField()
    area = models.PolygonField(srid=3857)
    deep = models.PointField(dim=3, geography=True)
    shapes = models.GeometryCollectionField()
    nights = fields.IntegerRangeField()
    large = fields.BigIntegerRangeField()
    price = fields.DecimalRangeField()
    days = fields.DateRangeField()
    times = fields.DateTimeRangeField()
    seasons = fields.ArrayField(fields.IntegerRangeField())
    tags = fields.HStoreField()

    def __str__(self) -> str:
        return str(self.point)
