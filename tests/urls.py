from django.contrib import admin
from django.urls import include, path

urlpatterns = [
    path("_cloudtask/", include("cloudtask.urls")),
    path("admin/", admin.site.urls),
]
