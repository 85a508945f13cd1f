"""The views that the test requests from the running shop."""

from __future__ import annotations

import inspect

from django.http import HttpRequest, JsonResponse
from django.views.decorators.csrf import csrf_exempt

from . import stock, tasks
from .models import DayTotal, Entry, Order, Product


def orders() -> list[Order]:
    customers = ("ann@example.com", "busy@example.com", "nobody@example.com")
    return [Order.objects.get_or_create(customer=one)[0] for one in customers]


def celery() -> None:
    ann, busy, nobody = orders()
    tasks.pay(ann)
    tasks.pay(busy)
    tasks.remind([ann.pk, nobody.pk])


def djangae() -> None:
    stock.start_import(["tea", "milk", "salt"])
    product, _ = Product.objects.get_or_create(name="rice", defaults={"price": 7})
    stock.receive(product, 5)
    stock.defer(stock.restock, 999, 1, _queue="stock")


def close() -> None:
    tasks.close_day("monday")


def prices() -> None:
    """The same action for a caller that is not a task."""
    inspect.unwrap(stock.raise_prices)(None)


@csrf_exempt
def do(request: HttpRequest, what: str) -> JsonResponse:
    {"celery": celery, "djangae": djangae, "close": close, "prices": prices}[what]()
    return JsonResponse({})


def state(request: HttpRequest) -> JsonResponse:
    return JsonResponse(
        {
            "entries": [entry.text for entry in Entry.objects.order_by("pk")],
            "totals": dict(DayTotal.objects.values_list("day", "total")),
            "products": {
                product.name: [product.stock, product.price, product.source]
                for product in Product.objects.all()
            },
        }
    )
