"""LiveServerTestCase: the server's thread enqueues, the test runs."""

from __future__ import annotations

from urllib.request import urlopen

from django.http import HttpResponse
from django.test import LiveServerTestCase, override_settings
from django.urls import include, path

from cloudtask.testing import eager, queued, run_queued
from tests.testapp.models import Author
from tests.testing import tasks


def sign_up(request):
    tasks.add_author.defer(request.GET["name"])
    return HttpResponse("welcome")


urlpatterns = [
    path("sign-up/", sign_up),
    path("_cloudtask/", include("cloudtask.urls")),
]


@override_settings(ROOT_URLCONF=__name__)
class ALiveServer(LiveServerTestCase):
    def visit(self, name):
        with urlopen(f"{self.live_server_url}/sign-up/?name={name}") as answer:
            assert answer.status == 200

    def test_what_a_request_enqueues_the_test_runs(self):
        self.visit("a")
        self.visit("b")
        assert len(queued()) == 2
        run_queued()
        assert Author.objects.count() == 2

    def test_over_http_too(self):
        self.visit("a")
        run_queued(via="http")
        assert Author.objects.get().name == "a"

    def test_an_eager_request_runs_it_at_once(self):
        with eager():
            self.visit("a")
        assert Author.objects.get().name == "a"

    def test_each_test_has_a_queue_of_its_own(self):
        assert queued() == []
