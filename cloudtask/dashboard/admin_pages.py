"""The pages as parts of an admin site, under the names that the admin gives to pages of
models."""

from __future__ import annotations

from functools import partial, update_wrapper
from typing import TYPE_CHECKING, Any

from django.contrib.admin import ModelAdmin
from django.http import HttpRequest
from django.urls import URLPattern, path

from cloudtask import models
from cloudtask.dashboard import rights
from cloudtask.dashboard.routes import ROUTES
from cloudtask.dashboard.visits import NAVIGATION, Place

MODELS: tuple[Any, ...] = (
    models.Overview,
    models.Iteration,
    models.Failed,
    models.Outbox,
    models.Call,
    models.Queue,
    models.Task,
    models.Schedule,
    models.Group,
    models.Result,
    models.Doctor,
)
_NEEDED = {model: needed for model, _, needed in NAVIGATION}

if TYPE_CHECKING:
    _Admin = ModelAdmin[Any]
else:  # Django's own class takes no parameter
    _Admin = ModelAdmin


class DashboardAdmin(_Admin):
    """The pages of one model. All views are ours: the admin's own ask for a table."""

    def get_urls(self) -> list[URLPattern]:
        place = Place(site=self.admin_site)
        model = self.opts.model_name
        return [
            path(
                route.path,
                self.admin_site.admin_view(_placed(route.view, place)),
                name=f"cloudtask_{route.name}",
            )
            for route in ROUTES
            if route.model == model
        ]

    def has_view_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return rights.may_any(request.user, _NEEDED[str(self.opts.model_name)])

    def has_module_permission(self, request: HttpRequest) -> bool:
        return self.has_view_permission(request)

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False


def _placed(view: Any, place: Place) -> Any:
    return update_wrapper(partial(view, place=place), view)


def register_in(site: Any) -> None:
    """Register the models that `site` does not have yet."""
    for model in MODELS:
        if not site.is_registered(model):
            site.register(model, DashboardAdmin)
