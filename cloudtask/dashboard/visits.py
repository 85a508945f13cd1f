"""One request of a person: where the pages are, what the person may do, and answers."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import Any

from django.contrib import messages
from django.contrib.auth.views import redirect_to_login
from django.core.exceptions import PermissionDenied
from django.db import DatabaseError, models
from django.http import (
    HttpRequest,
    HttpResponse,
    HttpResponseNotModified,
    HttpResponseRedirect,
)
from django.template.loader import render_to_string
from django.urls import reverse
from django.views.decorators.csrf import csrf_protect

from cloudtask import conf
from cloudtask.dashboard import audit, rights
from cloudtask.discretion import printable
from cloudtask.exceptions import (
    CloudTaskError,
    ConfigurationError,
    EnqueueError,
)

TEMPLATES = "cloudtask/dashboard"
MARKS = ("before", "after")  # the parameters at which a page begins
FRAGMENT = "fragment"  # the parameter of requests that the script makes

# The entries of the navigation: model, title, and the rights of which one suffices.
NAVIGATION = (
    ("overview", "Overview", rights.PAGES),
    ("iteration", "Iterations", ("view_iteration",)),
    ("failed", "Failed tasks", ("view_failed",)),
    ("outbox", "Outbox", ("view_outbox",)),
    ("call", "Calls", ("view_call",)),
    ("queue", "Queues", ("view_queue",)),
    ("task", "Tasks", ("view_task",)),
    ("schedule", "Schedules", ("view_schedule",)),
    ("group", "Groups", ("view_group",)),
    ("result", "Results", ("view_result",)),
    ("doctor", "Doctor", ("run_doctor",)),
)


@dataclass(frozen=True, slots=True)
class Place:
    """Where the pages are: in an admin site, or under URLs of the project."""

    site: Any = None
    namespace: str = ""

    def url(self, model: str, kind: str, *args: str) -> str:
        if self.site is None:
            return reverse(f"{self.namespace}:{model}_{kind}", args=args)
        name = f"admin:cloudtask_{model}_{kind}"
        return reverse(name, args=args, current_app=self.site.name)


class Visit:
    """A request to a page of the dashboard."""

    def __init__(self, request: HttpRequest, place: Place, model: str) -> None:
        self.request = request
        self.place = place
        self.model = model

    @property
    def is_fragment(self) -> bool:
        return FRAGMENT in self.request.GET

    def may(self, right: str) -> bool:
        return rights.may(self.request.user, right)

    def demand(self, right: str) -> None:
        """Raise PermissionDenied without the right."""
        if not self.may(right):
            raise PermissionDenied

    def url(self, model: str, kind: str = "changelist", *args: str) -> str:
        return self.place.url(model, kind, *args)

    def given(self, name: str) -> str | None:
        """A parameter of the URL; None if it is empty or holds a NUL, which no database
        takes."""
        value = self.request.GET.get(name, "").strip()
        return value[:500] if value and "\0" not in value else None

    # Answers

    def render(
        self, template: str, title: str, status: int = 200, **context: Any
    ) -> HttpResponse:
        """The page, or its regions alone for the script; 304 if it has these."""
        whole = {**self._frame(title), **context}
        made = render_to_string(f"{TEMPLATES}/{template}", whole, self.request)
        # Names and errors may have any character.
        text = "\n".join(map(printable, made.split("\n")))
        response = HttpResponse(text, status=status)
        if self.is_fragment and status == 200:
            digest = hashlib.sha256(text.encode()).hexdigest()
            response["ETag"] = f'"{digest[:32]}"'
            if self.request.headers.get("If-None-Match") == response["ETag"]:
                response = HttpResponseNotModified(headers={"ETag": response["ETag"]})
        response["Cache-Control"] = "no-store"
        return response

    def _frame(self, title: str) -> dict[str, Any]:
        base = "alone" if self.place.site is None else "in_admin"
        frame: dict[str, Any] = {
            "base": f"{TEMPLATES}/{'fragment' if self.is_fragment else base}.html",
            "title": title,
            "visit": self,
            "here": self.request.get_full_path(),
            "is_read_only": conf.settings().dashboard_read_only,
            "navigation": self._navigation(),
            "filters": self._filters(),
            **{f"url_{model}": self.url(model) for model, _, _ in NAVIGATION},
        }
        if self.place.site is not None and not self.is_fragment:
            self.request.current_app = self.place.site.name
            frame = {**self.place.site.each_context(self.request), **frame}
        return frame

    def _navigation(self) -> list[dict[str, Any]]:
        return [
            {"title": title, "url": self.url(model), "is_here": model == self.model}
            for model, title, needed in NAVIGATION
            if rights.may_any(self.request.user, needed)
        ]

    def _filters(self) -> str:
        """The parameters of the URL that choose what is listed, not where it begins."""
        kept = self.request.GET.copy()
        for name in (*MARKS, FRAGMENT):
            kept.pop(name, None)
        return kept.urlencode()

    def back(self) -> HttpResponse:
        """To the page that was acted on, with the same filters."""
        return HttpResponseRedirect(self.request.get_full_path())

    def say(self, text: str, *, is_error: bool = False) -> None:
        level = messages.ERROR if is_error else messages.SUCCESS
        messages.add_message(self.request, level, text, fail_silently=True)

    # Actions

    def act(
        self,
        verb: str,
        right: str,
        thing: models.Model,
        do: Callable[[], str],
        to: str | None = None,
    ) -> HttpResponse:
        """Do something, say and record what was done, and go back."""
        self.demand(right)
        try:
            text = do()
        except CloudTaskError as error:
            self.say(printable(str(error)), is_error=True)
        else:
            self.say(text)
            audit.record(self.request.user, verb, thing, text)
        return self.back() if to is None else HttpResponseRedirect(to)

    def confirm(self, right: str, question: Mapping[str, Any]) -> HttpResponse | None:
        """The page that asks before something is done; None once that was answered."""
        self.demand(right)
        if self.request.POST.get("confirmed"):
            return None
        fields = [
            (name, value)
            for name in self.request.POST
            for value in self.request.POST.getlist(name)
            if name not in ("csrfmiddlewaretoken", "typed")
        ]
        return self.render(
            "confirm.html", str(question["title"]), fields=fields, **_untitled(question)
        )


def _untitled(question: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in question.items() if name != "title"}


View = Callable[..., HttpResponse]


def page(model: str, needed: Sequence[str]) -> Callable[[View], View]:
    """A view of the dashboard, which is called with a visit.

    Without one of the rights `needed` the answer is 403, for a stranger the login. If
    the store is unavailable, it is 503 with a sentence. Each POST needs a token of
    Django's CSRF protection, and no other site may frame the page, whichever
    middleware the project has.
    """

    def decorated(view: View) -> View:
        @wraps(view)
        def answered(
            request: HttpRequest, place: Place | None = None, **kwargs: Any
        ) -> HttpResponse:
            if place is None:
                match = request.resolver_match
                place = Place(namespace=match.namespace if match else "")
            if not request.user.is_authenticated:
                return redirect_to_login(request.get_full_path())
            if not rights.may_any(request.user, tuple(needed)):
                raise PermissionDenied
            response = _answered(view, Visit(request, place, model), kwargs)
            response.headers.setdefault("X-Frame-Options", conf.x_frame_options())
            return response

        protected: View = csrf_protect(answered)
        return protected

    return decorated


def _answered(view: View, visit: Visit, kwargs: dict[str, Any]) -> HttpResponse:
    if any("\0" in text for text in kwargs.values()):
        # PostgreSQL takes no such text.
        return not_found(visit, "Not found", "No id has this character.")
    try:
        return view(visit, **kwargs)
    except (EnqueueError, ConfigurationError, DatabaseError) as error:
        why = printable(str(error))
        if isinstance(error, DatabaseError):
            why = f"The database refuses: {why}"
        return visit.render("unavailable.html", "Not available", 503, why=why)


def not_found(visit: Visit, title: str, why: str) -> HttpResponse:
    """404 with a sentence that says what may have become of the thing."""
    return visit.render("missing.html", title, 404, why=why)
