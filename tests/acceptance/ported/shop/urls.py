from django.urls import include, path

from . import stock, views

urlpatterns = [
    path("_cloudtask/", include("cloudtask.urls")),
    path("raise-prices/", stock.raise_prices),
    path("shop/<str:what>/", views.do),
    path("state/", views.state),
]
