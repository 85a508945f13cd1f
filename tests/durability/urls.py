from django.http import HttpRequest, HttpResponse
from django.urls import include, path

from cloudtask.transports import transport
from tests.durability import tasks
from tests.durability.queues import LocalQueue


def defer(request: HttpRequest) -> HttpResponse:
    queue: LocalQueue = transport()  # type: ignore[assignment]
    before = len(queue.bodies)
    tasks.plain.defer("a")
    assert len(queue.bodies) == before, "sent before the commit"
    if "then" in request.GET:
        raise ValueError("roll back")
    return HttpResponse("deferred")


urlpatterns = [
    path("_cloudtask/", include("cloudtask.urls")),
    path("defer/", defer),
]
