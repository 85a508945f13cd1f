"""The view for Cloud Scheduler that docs/howto/from-celery.md shows."""

from __future__ import annotations

import pytest
from django.test import Client
from django.urls import include, path

from tests.docs.blocks import executed
from tests.support import recording
from tests.support.site import Site

nightly = executed("docs/howto/from-celery.md", "def nightly(")["nightly"]
urlpatterns = [
    path("_cloudtask/", include("cloudtask.urls")),
    path("nightly/", nightly),
]

pytestmark = pytest.mark.urls(__name__)


def test_cloud_scheduler_defers_the_task(site: Site) -> None:
    headers = {
        "X-CloudScheduler": "true",
        "Authorization": f"Bearer {site.issuer.token()}",
    }
    client = Client(enforce_csrf_checks=True)
    assert client.post("/nightly/", headers=headers).status_code == 200
    (message,) = recording.sent
    assert message.task == "tests.docs.shop.send_reports"


def test_a_request_without_the_token_is_refused(site: Site) -> None:
    headers = {"X-CloudScheduler": "true"}
    assert Client().post("/nightly/", headers=headers).status_code == 403
    assert recording.sent == []
