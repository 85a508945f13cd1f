"""URLs of the example: cloudtask's handler, and the views about cities."""

from django.urls import include, path

urlpatterns = [
    # Cloud Tasks sends deliveries here.
    path("_cloudtask/", include("cloudtask.urls")),
    path("", include("cities.urls")),
]
