"""The views about cities."""

from django.urls import path

from cities import views

urlpatterns = [
    path("progress/", views.progress),
    path("cities/<int:city_id>/grow/", views.grow),
]
