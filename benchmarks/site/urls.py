"""The handler, and nothing else."""

from django.urls import include, path

urlpatterns = [path("_cloudtask/", include("cloudtask.urls"))]
