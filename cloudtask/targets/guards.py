"""Decorates views that only the project's own queues and cron jobs may call.

They work on synchronous and asynchronous views.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from inspect import iscoroutinefunction
from typing import Any

from asgiref.sync import sync_to_async
from django.core.exceptions import RequestDataTooBig
from django.http import HttpRequest, HttpResponseForbidden
from django.views.decorators.csrf import csrf_exempt, csrf_protect

from cloudtask import clock, envelope
from cloudtask.exceptions import PayloadError, UntrustedRequest
from cloudtask.targets import header, on_app_engine, target

View = Callable[..., Any]  # returns a response, or a coroutine of one


def is_task_request(request: HttpRequest) -> bool:
    """Whether Cloud Tasks made `request`, as far as the target can prove it."""
    return header(request.headers, "QueueName") is not None and is_trusted(request)


def is_cron_request(request: HttpRequest) -> bool:
    """Whether App Engine's cron or Cloud Scheduler made `request`.

    App Engine removes X-AppEngine-Cron from requests that come from outside. No server
    removes X-CloudScheduler, so that request must also pass the target's check: an
    `HttpTarget` requires the OIDC token of its service account.
    """
    if request.headers.get("X-AppEngine-Cron") == "true":
        return on_app_engine()
    return request.headers.get("X-CloudScheduler") == "true" and is_trusted(request)


def is_trusted(request: HttpRequest) -> bool:
    """Whether the target accepts that Cloud Tasks, or its account, made `request`."""
    found = target()
    try:
        found.verify(request)
    except UntrustedRequest:
        return False
    return getattr(found, "is_proof", True) or _is_sealed(request)


def _is_sealed(request: HttpRequest) -> bool:
    """Whether the body is a message that this project has signed.

    With an emulator nothing else can be checked, because anyone can send the headers of
    App Engine. It does not prove that a queue sent the message, or sent it now.
    """
    try:
        envelope.unseal(request.body, now=clock.now())
    except (PayloadError, RequestDataTooBig):
        return False
    return True


def _is_ours(request: HttpRequest) -> bool:
    return is_task_request(request) or is_cron_request(request)


def _chosen(view: View, choose: Callable[[HttpRequest], View]) -> View:
    """`view` wrapped: for each request, `choose` returns the view that answers it."""

    @wraps(view)
    def guarded(request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
        return choose(request)(request, *args, **kwargs)

    @wraps(view)
    async def aguarded(request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
        # In a thread: the check may fetch certificates, or query for the user.
        answer = (await sync_to_async(choose)(request))(request, *args, **kwargs)
        return await answer

    return aguarded if iscoroutinefunction(view) else guarded


def _refusing(view: View, text: str) -> View:
    """A view of the same kind as `view` that answers 403."""

    def refuse(request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
        return HttpResponseForbidden(text, content_type="text/plain")

    async def arefuse(request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
        return refuse(request)

    return arefuse if iscoroutinefunction(view) else refuse


def _never_exempt(view: View) -> View:
    """The same view without the mark of `csrf_exempt`."""

    def answer(request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
        return view(request, *args, **kwargs)

    async def aanswer(request: HttpRequest, *args: Any, **kwargs: Any) -> Any:
        return await view(request, *args, **kwargs)

    return aanswer if iscoroutinefunction(view) else answer


def task_only(view: View) -> View:
    """Answer 403 unless the sender is one of the project's queues or a cron job."""
    refuse = _refusing(view, "This URL is for Cloud Tasks only.")
    return _chosen(view, lambda request: view if _is_ours(request) else refuse)


def task_or_superuser_only(view: View) -> View:
    """Answer 403 unless the sender is a queue, a cron job or an active superuser.

    A POST of a superuser needs a token of Django's CSRF protection, also if the view is
    `csrf_exempt` for the queues.
    """
    refuse = _refusing(view, "For Cloud Tasks and superusers only.")
    protected = csrf_protect(_never_exempt(view))

    def choose(request: HttpRequest) -> View:
        if _is_ours(request):
            return view
        user = getattr(request, "user", None)
        is_superuser = bool(user and user.is_active and user.is_superuser)
        return protected if is_superuser else refuse

    return _chosen(view, choose)


def csrf_exempt_if_task(view: View) -> View:
    """Check for cross-site forgery unless the sender is a queue or a cron job."""
    protected = csrf_protect(view)
    exempt = csrf_exempt(
        _chosen(view, lambda request: view if _is_ours(request) else protected)
    )
    return exempt
