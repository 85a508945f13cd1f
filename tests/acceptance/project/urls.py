from django.urls import include, path

from tests.acceptance.project.ledger import views

urlpatterns = [
    path("_cloudtask/", include("cloudtask.urls")),
    path("defer/", views.defer),
    path("defer-many/", views.defer_many),
    path("defer-in-transaction/", views.defer_in_transaction),
    path("defer-large/", views.defer_large),
    path("entries/", views.entries),
    path("deliveries/", views.deliveries),
    path("leftovers/", views.leftovers),
]
