from django.urls import include, path

from tests.acceptance.datastore_site import views

urlpatterns = [
    path("_cloudtask/", include("cloudtask.urls")),
    path("defer/", views.defer),
    path("manage/", views.manage),
    path("orders/", views.orders),
    path("walk/", views.walk),
    path("retry/", views.retry),
    path("state/", views.state),
    path("visits/", views.visits),
]
