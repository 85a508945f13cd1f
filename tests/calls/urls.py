"""The URLs of the journeys."""

from __future__ import annotations

from django.urls import include, path

urlpatterns = [path("_cloudtask/", include("cloudtask.urls"))]
