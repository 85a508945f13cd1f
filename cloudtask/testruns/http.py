"""Delivers through Django's test client: URL, middleware, verification, headers.

The project's target verifies each delivery, with one difference. An HttpTarget gets
another set of certificates, since the test run signs tokens with a key of its own. An
AppEngineTarget acts as on App Engine, whose front end removes such headers from
requests of other senders.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from copy import copy
from functools import lru_cache
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from django.test import Client

from cloudtask import signals, targets
from cloudtask.delivering.settling import Outcome
from cloudtask.message import Delivery, Message
from cloudtask.targets import (
    AppEngineDispatch,
    AppEngineTarget,
    HttpDispatch,
    HttpTarget,
    Target,
    oidc,
    target,
)
from cloudtask.testruns.deliveries import unanswered
from cloudtask.testruns.report import ReportedAttempt
from cloudtask.transports.memory import Waiting

if TYPE_CHECKING:
    from cloudtask.emulator.tokens import SigningKey

USER_AGENT = "Google-Cloud-Tasks"


class Undelivered(AssertionError):
    """The application answered a delivery without running its task."""


class Http:
    """Makes the request that Cloud Tasks would make, and reads the answer."""

    def __init__(self) -> None:
        self.client = Client(enforce_csrf_checks=True)
        self.tokens: dict[tuple[str | None, str | None], str | None] = {}

    def deliver(self, entry: Waiting, now: float) -> ReportedAttempt:
        """Make one delivery; the view has settled it when this returns.

        An exception of a middleware is the failure of the attempt.
        """
        dispatch = target().request_for(entry.message)
        ran = unanswered(entry, now, None)
        with targets.using(trusting(target())), _noting(ran):
            try:
                response = self._post(dispatch, entry)
            except Exception as error:  # noqa: BLE001  an answer 500 in production
                ran.error = error
                return ran
        if ran.outcome is Outcome.FAILED and ran.error is None:
            ran.error = _refusal(entry.message, dispatch, response)
        return ran

    def _post(self, dispatch: HttpDispatch | AppEngineDispatch, entry: Waiting) -> Any:
        url = address(dispatch)
        parts = urlsplit(url)
        headers = {**headers_of(dispatch, entry), **dispatch.headers}
        if isinstance(dispatch, HttpDispatch) and (token := self._token(dispatch)):
            headers["Authorization"] = f"Bearer {token}"
        kind = headers.pop("Content-Type")
        return self.client.generic(
            "POST",
            parts._replace(scheme="", netloc="").geturl(),
            entry.body,
            content_type=kind,
            # Clients reach App Engine's front end by TLS.
            secure=parts.scheme != "http",
            headers=headers,
        )

    def _token(self, dispatch: HttpDispatch) -> str | None:
        key = (dispatch.service_account, dispatch.audience)
        if key not in self.tokens:
            self.tokens[key] = token_for(dispatch)
        return self.tokens[key]


def address(dispatch: HttpDispatch | AppEngineDispatch) -> str:
    """The URL or path of the request."""
    if isinstance(dispatch, HttpDispatch):
        return dispatch.url
    return dispatch.relative_uri


def headers_of(
    dispatch: HttpDispatch | AppEngineDispatch, entry: Waiting
) -> dict[str, str]:
    """The headers of a dispatch; see
    https://cloud.google.com/tasks/docs/creating-http-target-tasks."""
    to_app_engine = isinstance(dispatch, AppEngineDispatch)
    prefix = "X-AppEngine-" if to_app_engine else "X-CloudTasks-"
    message, delivery = entry.message, entry.delivery
    agent = "AppEngine-Google; (+http://code.google.com/appengine)"
    return {
        "User-Agent": agent if to_app_engine else USER_AGENT,
        f"{prefix}QueueName": message.queue,
        f"{prefix}TaskName": message.name,
        f"{prefix}TaskRetryCount": str(delivery.retries),
        f"{prefix}TaskExecutionCount": str(delivery.executions),
        f"{prefix}TaskETA": f"{entry.due:.6f}",
        **_after_a_retry(prefix, delivery),
    }


def _after_a_retry(prefix: str, delivery: Delivery) -> dict[str, str]:
    if delivery.previous_response is None:
        return {}
    headers = {f"{prefix}TaskPreviousResponse": str(delivery.previous_response)}
    if delivery.retry_reason:
        headers[f"{prefix}TaskRetryReason"] = delivery.retry_reason
    return headers


@contextmanager
def _noting(ran: ReportedAttempt) -> Iterator[None]:
    """Record from the signal how the view's delivery ended.

    The answer does not contain the error of the task.
    """

    def note(context: Any, outcome: Outcome, error: Any, **kwargs: Any) -> None:
        if context.id == ran.id:
            ran.attempt = context.attempt
            ran.outcome, ran.error = outcome, error

    signals.task_finished.connect(note)
    try:
        yield
    finally:
        signals.task_finished.disconnect(note)


def _refusal(
    message: Message, dispatch: HttpDispatch | AppEngineDispatch, response: Any
) -> Undelivered:
    text = response.content[:200].decode("utf-8", "replace")
    return Undelivered(
        f"The delivery of {message.task} ({message.id}) to {address(dispatch)} was "
        f"answered {response.status_code} {text!r}, and its task did not run. Check "
        "the log, the URLconf, the middleware and CLOUDTASK['TARGET']."
    )


# Trust


@lru_cache(maxsize=1)
def _key() -> SigningKey:
    from cloudtask.emulator.tokens import SigningKey

    return SigningKey()


class _Certificates(oidc.Certificates):
    """The same single key for every issuer."""

    def of(self, url: str, key_id: object) -> Mapping[str, str]:
        return {_key().id: _key().public_pem}


def token_for(dispatch: HttpDispatch) -> str | None:
    """The bearer token that Cloud Tasks would add to `dispatch`."""
    from cloudtask.emulator.tokens import TokenMaker

    if dispatch.service_account is None:
        return None
    found = target()
    issuer = found.issuer if isinstance(found, HttpTarget) else None
    named = issuer.rstrip("/") if issuer else oidc.GOOGLE_ISSUERS[0]
    maker = TokenMaker(_key(), lambda: named, time.time)
    return maker.oidc(dispatch.service_account, dispatch.audience or dispatch.url)


def trusting(found: Target) -> Target:
    """A copy of `found` that trusts this module's tokens, or App Engine's headers."""
    ours = copy(found)
    if isinstance(ours, AppEngineTarget):
        ours.on_app_engine = True
    elif isinstance(ours, HttpTarget):
        ours.certificates = _Certificates()
    return ours
