"""The pages in the admin, in another admin site, and without an admin."""

from django.contrib import admin
from django.contrib.admin import AdminSite
from django.urls import include, path

from cloudtask.dashboard import register

other = AdminSite(name="other")
register(other)

urlpatterns = [
    path("_cloudtask/", include("cloudtask.urls")),
    path("admin/", admin.site.urls),
    path("other/", other.urls),
    path("tasks/", include("cloudtask.dashboard.urls")),
]
