"""The shop's stock: ../before/stock.py, ported by docs/howto/from-djangae.md.

Nothing but the imports is changed.
"""

# ruff: noqa: I001  sorted where its libraries were installed

from django.db import transaction
from django.http import HttpResponse
from cloudtask.decorators import csrf_exempt_if_task, task_or_superuser_only
from cloudtask.deferred import (
    PermanentTaskFailure,
    defer,
    defer_iteration_with_finalize,
    get_deferred_shard_index,
)
from cloudtask.environment import is_in_task, task_queue_name
from .models import Entry, Product


class Importer:
    def __init__(self, source):
        self.source = source

    def run(self, names):
        for name in names:
            Product.objects.get_or_create(name=name, defaults={"source": self.source})


def restock(product_id, amount):
    product = Product.objects.filter(pk=product_id).first()
    if product is None:
        raise PermanentTaskFailure(f"no product {product_id}")
    product.stock += amount
    product.save()
    Entry.objects.create(text=f"in task: {is_in_task()}, queue {task_queue_name()}")


def reprice(product, factor, reason=""):
    product.price *= factor
    product.shard = get_deferred_shard_index()
    product.save()


def repriced(factor, reason=""):
    Entry.objects.create(text=f"prices x {factor}: {reason}")


def receive(product, amount):
    with transaction.atomic():
        Entry.objects.create(text=f"received {amount}")
        defer(restock, product.pk, amount, _queue="stock", _countdown=5)


def start_import(names):
    defer(Importer("csv").run, names, _queue="stock", _small_task=True)


@csrf_exempt_if_task
@task_or_superuser_only
def raise_prices(request):
    defer_iteration_with_finalize(
        Product.objects.filter(price__gt=0),
        reprice,
        repriced,
        args=(2,),
        reason="inflation",
        _queue="stock",
        _shards=3,
        _delete_marker=True,
    )
    return HttpResponse("started")
