"""The dashboard without the admin: `include("cloudtask.dashboard.urls")`."""

from django.urls import path

from cloudtask.dashboard.routes import ROUTES

app_name = "cloudtask_dashboard"
urlpatterns = [
    path(f"{route.folder}{route.path}", route.view, name=route.name) for route in ROUTES
]
