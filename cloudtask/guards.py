"""View decorators that let in deliveries of the project's own queues."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

from django.http import HttpRequest, HttpResponseBase, HttpResponseForbidden
from django.views.decorators.csrf import csrf_exempt, csrf_protect

from cloudtask.deliveries import header
from cloudtask.exceptions import UntrustedRequest
from cloudtask.targets import target

View = Callable[..., HttpResponseBase]


def is_task_request(request: HttpRequest) -> bool:
    """Whether Cloud Tasks made `request`, as far as the target can prove it."""
    if header(request.headers, "QueueName") is None:
        return False
    try:
        target().verify(request)
    except UntrustedRequest:
        return False
    return True


def task_only(view: View) -> View:
    """Answer 403 unless the request is a delivery of the project's own queues."""

    @wraps(view)
    def guarded(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        if not is_task_request(request):
            return HttpResponseForbidden("This URL is for Cloud Tasks only.")
        return view(request, *args, **kwargs)

    return guarded


def task_or_superuser_only(view: View) -> View:
    """Answer 403 unless Cloud Tasks, or an active superuser, makes the request."""

    @wraps(view)
    def guarded(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        user = getattr(request, "user", None)
        is_superuser = bool(user and user.is_active and user.is_superuser)
        if not is_superuser and not is_task_request(request):
            return HttpResponseForbidden("For Cloud Tasks and superusers only.")
        return view(request, *args, **kwargs)

    return guarded


def csrf_exempt_if_task(view: View) -> View:
    """Check for cross-site forgery unless Cloud Tasks makes the request."""
    protected = csrf_protect(view)

    @wraps(view)
    def guarded(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        chosen = view if is_task_request(request) else protected
        return chosen(request, *args, **kwargs)

    return csrf_exempt(guarded)
