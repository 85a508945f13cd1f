"""URLs of the example: cloudtask's handler, the admin, and the views about cities."""

from django.contrib import admin
from django.contrib.staticfiles.views import serve
from django.urls import include, path

urlpatterns = [
    # Cloud Tasks sends deliveries here.
    path("_cloudtask/", include("cloudtask.urls")),
    # The dashboard of cloudtask is a part of Django's admin.
    path("admin/", admin.site.urls),
    # In production a web server, or WhiteNoise, serves these files.
    path("static/<path:path>", serve, {"insecure": True}),
    path("", include("cities.urls")),
]
