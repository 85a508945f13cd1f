"""The shop's mail before the port: written for Celery. Nothing imports this."""

from celery import chord, group, shared_task
from django.db import transaction
from shop import gateway
from shop.models import DayTotal, Order


@shared_task(bind=True, max_retries=3, queue="mail")
def send_receipt(self, order_id, copy=False):
    order = Order.objects.get(pk=order_id)
    try:
        gateway.send(order.customer, f"Receipt {order_id}{' (copy)' if copy else ''}")
    except gateway.Busy as error:
        raise self.retry(exc=error, countdown=30) from error
    order.log(f"receipt at attempt {self.request.retries + 1}")


@shared_task(
    queue="mail",
    autoretry_for=(gateway.Busy,),
    dont_autoretry_for=(gateway.Refused,),
    retry_backoff=True,
    retry_backoff_max=600,
    max_retries=4,
)
def send_reminder(order_id):
    gateway.send(Order.objects.get(pk=order_id).customer, f"Reminder {order_id}")


@shared_task
def price(order_id):
    order = Order.objects.get(pk=order_id)
    order.price = order.amount * 3
    order.save(update_fields=["price"])
    return order.price


@shared_task
def sum_up(prices, day):
    DayTotal.objects.create(day=day, total=sum(prices))


def pay(order):
    with transaction.atomic():
        order.is_paid = True
        order.save()
        transaction.on_commit(lambda: send_receipt.delay(order.pk))
    send_receipt.apply_async((order.pk,), {"copy": True}, countdown=3600)


def remind(order_ids):
    group(send_reminder.s(pk) for pk in order_ids)()


def close_day(day):
    paid = Order.objects.filter(is_paid=True).values_list("pk", flat=True)
    chord((price.s(pk) for pk in paid), sum_up.s(day))()
