"""The shop's mail: ../before/mail.py, ported by docs/howto/from-celery.md."""

from __future__ import annotations

from django.db import transaction
from django.db.models import Sum

from cloudtask import Backoff, PermanentTaskFailure, Retry, call, current, task

from . import gateway
from .models import DayTotal, Order


@task(queue="mail", max_attempts=4)
def send_receipt(order_id, copy=False):
    order = Order.objects.get(pk=order_id)
    try:
        gateway.send(order.customer, f"Receipt {order_id}{' (copy)' if copy else ''}")
    except gateway.Busy as error:
        raise Retry(delay=1) from error  # 30, for less patience in the test
    order.log(f"receipt at attempt {current().attempt}")


@task(queue="mail", max_attempts=5, backoff=Backoff(min=1, max=600))
def send_reminder(order_id):
    try:
        gateway.send(Order.objects.get(pk=order_id).customer, f"Reminder {order_id}")
    except gateway.Refused as error:
        raise PermanentTaskFailure from error


@task
def price(order_id, day):
    order = Order.objects.get(pk=order_id)
    order.price = order.amount * 3
    order.save(update_fields=["price"])


@task
def sum_up(day):
    paid = Order.objects.filter(is_paid=True)
    DayTotal.objects.create(day=day, total=paid.aggregate(sum=Sum("price"))["sum"])


def pay(order):
    with transaction.atomic():
        order.is_paid = True
        order.save()
        send_receipt.defer(order.pk)
    send_receipt.using(countdown=2).defer(order.pk, copy=True)  # 3600


def remind(order_ids):
    send_reminder.defer_many([call(pk) for pk in order_ids])


def close_day(day):
    paid = Order.objects.filter(is_paid=True).values_list("pk", flat=True)
    price.map(paid, finalize=sum_up, args=(day,))
