"""Routes requests to the views: path("_cloudtask/", include("cloudtask.urls"))."""

from django.urls import path

from cloudtask import views

app_name = "cloudtask"
urlpatterns = [
    path("run/<str:task>", views.run, name="run"),
    path("relay/", views.relay, name="relay"),
]
