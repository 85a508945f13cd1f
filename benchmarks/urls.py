"""The URLs of the benchmarks: the handler, and a view that does nothing."""

from django.http import HttpRequest, HttpResponse
from django.urls import include, path
from django.views.decorators.csrf import csrf_exempt


@csrf_exempt
def empty(request: HttpRequest) -> HttpResponse:
    return HttpResponse("succeeded", content_type="text/plain")


urlpatterns = [
    path("_cloudtask/", include("cloudtask.urls")),
    path("empty/", empty),
]
