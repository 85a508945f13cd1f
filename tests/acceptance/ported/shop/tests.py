"""The shop's own tests, ported too: run by Django's runner, with djangae's mixin."""

# ruff: noqa: PT009, PT027  written for unittest, as they were before

from __future__ import annotations

import inspect

from django import test

from cloudtask.testing import (
    TaskFailedBehaviour,
    TaskFailedError,
    TestCaseMixin,
    assert_enqueued,
    run_queued,
)

from . import stock, tasks
from .models import DayTotal, Entry, Order, Product


class TestCase(TestCaseMixin, test.TestCase):
    """As djangae.test.TestCase was."""


class StockTests(TestCase):
    def test_receiving_restocks(self):
        product = Product.objects.create(name="tea")
        stock.receive(product, 5)
        self.assertNumTasksEquals(1, queue_name="stock")
        self.process_task_queues()
        product.refresh_from_db()
        self.assertEqual(product.stock, 5)
        self.assertTrue(Entry.objects.filter(text="in task: True, queue stock"))

    def test_an_unknown_product_is_no_reason_to_retry(self):
        stock.defer(stock.restock, 999, 1, _queue="stock")
        self.process_task_queues()
        self.assertNumTasksEquals(0)

    def test_a_failure_is_raised(self):
        stock.defer(stock.restock, "no number", 1, _queue="stock")
        with self.assertRaises(TaskFailedError):
            self.process_task_queues(failure_behaviour=TaskFailedBehaviour.RAISE_ERROR)

    def test_all_prices_are_raised(self):
        Product.objects.bulk_create(Product(name=str(n), price=n) for n in range(20))
        inspect.unwrap(stock.raise_prices)(None)
        self.process_task_queues()
        prices = list(Product.objects.order_by("price").values_list("price", flat=True))
        self.assertEqual(prices, [2 * n for n in range(20)])
        self.assertEqual(Entry.objects.get().text, "prices x 2: inflation")

    def test_strangers_can_not_raise_prices(self):
        self.assertEqual(test.Client().get("/raise-prices/").status_code, 403)


class MailTests(test.TestCase):
    def test_paying_sends_a_receipt_and_a_copy(self):
        order = Order.objects.create(customer="ann@example.com")
        tasks.pay(order)
        assert_enqueued(tasks.send_receipt, order.pk)
        run_queued()
        self.assertIn(
            f"Receipt {order.pk} (copy) to ann@example.com",
            [entry.text for entry in Entry.objects.all()],
        )

    def test_a_day_is_summed_up_once(self):
        Order.objects.bulk_create(
            Order(customer="a@example.com", amount=n, is_paid=True) for n in range(10)
        )
        tasks.close_day("monday")
        run_queued()
        self.assertEqual(DayTotal.objects.get().total, 135)
