from django.urls import include, path

urlpatterns = [
    # Where Cloud Tasks delivers.
    path("_cloudtask/", include("cloudtask.urls")),
    path("", include("cities.urls")),
]
