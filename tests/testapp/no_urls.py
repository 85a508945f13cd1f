"""A URLconf without the handler."""

urlpatterns: list[object] = []
