"""What surrounds the examples of each page: names that they take from a project.

`before` runs ahead of the first example of a page, and `after` behind the last one: it
calls what the examples define.
"""

from __future__ import annotations

import textwrap
from dataclasses import dataclass


@dataclass(frozen=True)
class World:
    before: str = ""
    after: str = ""


def world(before: str = "", after: str = "") -> World:
    return World(textwrap.dedent(before), textwrap.dedent(after))


def routes(route: str, view: str) -> str:
    """Code that puts a view at a URL."""
    return f"""
import sys
from django.http import HttpResponse
from django.urls import include, path

urls = sys.modules["page_urls"]
act = {view}

def view(request, **given):
    act(request, **given)
    return HttpResponse()

urls.urlpatterns = [
    path("{route}", view), path("_cloudtask/", include("cloudtask.urls"))
]
ROOT_URLCONF = "page_urls"
"""


WELCOME = """
from cloudtask import task
from cloudtask.testing import *
from django.db import transaction

welcomed = []

@task
def send_welcome(name: str, template: str = "plain") -> None:
    welcomed.append(name)

def sign_up(name):
    with transaction.atomic():
        send_welcome.defer(name, template="rich")
"""
PAID = """
from cloudtask.testing import run_queued
from django.core import mail

pay(None, order.pk)
run_queued()
order.refresh_from_db()
assert order.paid
assert mail.outbox[0].subject == "Your receipt"
"""
ORDER = """
from django.contrib.auth.models import User
from shop.models import Order

ada = User.objects.create(username="ada", email="ada@example.com")
order = Order.objects.create(customer=ada)
"""
RUN_ALL = """
from cloudtask.testing import run_queued

run_queued()
"""
BASE = """
from pathlib import Path

BASE_DIR = Path("/srv/app")
"""

WORLDS = {
    "README.md": world(
        ORDER + routes("orders/<int:pk>/pay/", "lambda request, pk: pay(request, pk)"),
        PAID,
    ),
    "docs/index.md": world(ORDER, PAID),
    "docs/howto/cancel.md": world(
        after="""
        from cloudtask.testing import queued

        assert queued() == []
        """
    ),
    "docs/howto/context.md": world(
        """
        import sys
        from contextlib import contextmanager
        from types import SimpleNamespace

        tenants = sys.modules["shop.tenants"]
        used = [SimpleNamespace(pk=1)]
        tenants.current_tenant = lambda: used[-1]

        @contextmanager
        def use_tenant(pk):
            used.append(SimpleNamespace(pk=int(pk)))
            yield
            used.pop()

        tenants.use_tenant = use_tenant
        """,
        """
        carrier = Tenant()
        with carrier.restore({"id": "7"}, None):
            assert carrier.capture() == {"id": "7"}
        assert carrier.capture() == {"id": "1"}
        """,
    ),
    "docs/howto/dashboard.md": world(
        """
        from django.contrib.admin import AdminSite
        from django.urls import include, path

        my_admin_site = AdminSite("mine")
        """
    ),
    "docs/howto/datastore.md": world(BASE),
    "docs/howto/django-tasks.md": world(
        """
        from datetime import timedelta
        from django.utils import timezone

        moment = timezone.now() + timedelta(hours=1)
        """
    ),
    "docs/howto/emulator.md": world(
        """
        import os

        CLOUDTASK = {"TARGET": {}}
        """
    ),
    "docs/howto/failed-tasks.md": world(
        """
        from datetime import timedelta
        from cloudtask import Backoff, current, task

        class BadAddress(Exception):
            pass
        """,
        """
        from types import SimpleNamespace

        assert patient(BadAddress(), None) is None
        assert patient(OSError(), SimpleNamespace(attempt=2)) == 120
        """,
    ),
    "docs/howto/from-djangae.md": world(
        """
        import sys
        from django.urls import include, path

        ran = []

        def execute_from_command_line(arguments):
            ran.append(arguments)
        """,
        "assert ran",
    ),
    "docs/howto/iterate.md": world(
        """
        from django.db.models import F
        from shop.models import Author, Book, Tally

        book = Book.objects.create(slug="a", old=True, pages=3)
        rows = Book.objects.all()
        tally_row = Tally.objects.create(shard=0)
        """,
        """
        from cloudtask.testing import run_queued

        run_queued(errors="collect")
        book.refresh_from_db()
        assert book.views == 1
        tally.iterate(Book.objects.all(), shards=1)
        run_queued()
        tally_row.refresh_from_db()
        assert tally_row.pages == 3
        """,
    ),
    "docs/howto/outbox.md": world(
        ORDER
        + """
from cloudtask import task
from django.db import transaction

sent = []

@task
def send_receipt(order_id):
    sent.append(order_id)
""",
        RUN_ALL + "assert sent == [order.pk]",
    ),
    "docs/howto/rename.md": world(
        after=RUN_ALL + "send_receipt.defer(7)\nassert len(run_queued()) == 1"
    ),
    "docs/howto/results.md": world(
        """
        from cloudtask.testing import eager

        at_once = eager()
        at_once.__enter__()
        """,
        """
        assert receipt.result() == 3
        at_once.__exit__(None, None, None)
        """,
    ),
    "docs/howto/sqlite.md": world(BASE),
    "docs/howto/testing.md": world(
        WELCOME
        + routes("signup/", "lambda request: sign_up(request.POST['name'])")
        + """
from types import SimpleNamespace
from unittest.mock import ANY

import pytest
from cloudtask import Failure, chain
from django.db.models import F
from django.test import TestCase
from shop.models import Tally

@task
def charge(name: str) -> int:
    return 7

@task
def pack(charged: int, kind: str) -> None: ...

@task
def alert(failure: Failure) -> None: ...

def place(name):
    chain(charge.s(name), pack.s("parcel"), on_failure=alert.s()).defer()

orders = SimpleNamespace(place=place)

@task(atomic=True)
def pay(account_id, amount):
    Tally.objects.filter(pk=account_id).update(pages=F("pages") + amount)

def balance(tally):
    tally.refresh_from_db()
    return tally.pages

def make_account():
    Tally.balance = balance
    return Tally.objects.create(shard=0)
""",
        "assert welcomed",
    ),
    "docs/howto/workflows.md": world(
        """
        import sys
        from django.tasks import task as task_of_django

        def clean(page):
            return page

        @task_of_django
        def index(page): ...

        sys.modules["shop.words"].clean = clean
        sys.modules["shop.jobs"].index = index
        """
    ),
    "docs/reference/codec.md": world(
        """
        from datetime import date
        from typing import NamedTuple

        class Money:
            def __init__(self, amount, currency):
                self.amount, self.currency = amount, currency
        """,
        """
        found = codec.loads(codec.dumps(Money(7, "EUR")))
        assert (found.amount, found.currency) == (7, "EUR")
        """,
    ),
    "docs/reference/options.md": world(
        """
        from cloudtask import task
        from django.db import models
        """
    ),
}
