"""Delivers a call, without HTTP or through Django's test client.

With the client, the delivery passes URL, middleware, verification and headers. The
project's target verifies each delivery, with one difference. An HttpTarget gets another
set of certificates, since the test run signs tokens with a key of its own. An
AppEngineTarget acts as on App Engine, whose front end removes such headers from
requests of other senders.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from copy import copy
from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from django.test import Client

from cloudtask import envelope, registry, signals, targets
from cloudtask.context import KILLED_ATTEMPTS, isolated
from cloudtask.delivering import marks, telling
from cloudtask.delivering.calls import (
    Attempt,
    call_of,
    max_attempts_of,
    service_backoff_of,
)
from cloudtask.delivering.deliveries import delivered
from cloudtask.delivering.settling import Outcome, finish
from cloudtask.exceptions import CloudTaskError, PermanentTaskFailure
from cloudtask.message import Arrival, Delivery, Message
from cloudtask.targets import (
    AppEngineDispatch,
    AppEngineTarget,
    HttpDispatch,
    HttpTarget,
    Target,
    oidc,
    target,
)
from cloudtask.testruns import queued_calls
from cloudtask.testruns.report import ReportedAttempt
from cloudtask.transports.memory import Waiting

if TYPE_CHECKING:
    from cloudtask.emulator.tokens import SigningKey

__tracebackhide__ = True  # pytest ends at the line of the test


@isolated
def deliver(
    entry: Waiting, now: float, *, settles: bool, commit: Callable[[], None]
) -> ReportedAttempt:
    """Unseal and run one message. `commit` sends the calls that its function commits.

    A failure is left as it is unless `settles`: nothing is kept, enqueued or logged.
    """
    made: list[ReportedAttempt] = []

    def settle(attempt: Attempt) -> Outcome:
        commit()
        ran = _reported(attempt, now)
        made.append(ran)
        if attempt.error is None or settles or not attempt.is_failure:
            try:
                ran.outcome = finish(attempt)
            except CloudTaskError as error:
                ran.error = error
                return Outcome.UNSETTLED
        return ran.outcome

    try:
        message = envelope.unseal(entry.body, now=now)
        delivered(call_of(Arrival(message, entry.delivery)), settle)
    except CloudTaskError as error:
        return unanswered(entry, now, error)
    return made[0]


def tell(entry: Waiting, ran: ReportedAttempt, error: BaseException) -> None:
    """Tell the chain of a call that the test run does not try again.

    Nothing is kept as a failed task. If telling fails too, a note of `error` says so.
    """
    if entry.message.chain is None or isinstance(error, Undelivered):
        return
    try:
        message = envelope.unseal(entry.body, now=ran.time)
        look = marks.cancellation_of(message)
        if look is not None and look():
            telling.tell_cancelled(message)
        else:
            telling.tell_failure(message, error)
    except CloudTaskError as lost:
        error.add_note(f"What follows on the failure was not told of it: {lost}")


def _reported(attempt: Attempt, now: float) -> ReportedAttempt:
    message, context = attempt.call.message, attempt.call.context
    return ReportedAttempt(
        queued_calls.task_of(message),
        message.id,
        context.attempt,
        now,
        Outcome.FAILED,
        attempt.value,
        attempt.error,
    )


def unanswered(
    entry: Waiting, now: float, error: BaseException | None
) -> ReportedAttempt:
    """An attempt that never reached the function, or whose process crashed."""
    message = entry.message
    attempt = message.attempts + entry.delivery.retries + 1
    task = queued_calls.task_of(message)
    return ReportedAttempt(task, message.id, attempt, now, Outcome.FAILED, None, error)


def delay(message: Message, retry: int) -> float:
    """Seconds before retry number `retry`, by the policy of task and queue."""
    definition = registry.tasks().get(message.task)
    return service_backoff_of(message, definition).delay(retry).total_seconds()


def is_last(message: Message, ran: ReportedAttempt) -> bool:
    """Whether `message` has no attempt left, or another one would not help."""
    return isinstance(ran.error, PermanentTaskFailure) or (
        ran.attempt >= _max_attempts(message)
    )


def is_hopeless(message: Message, ran: ReportedAttempt) -> bool:
    """Whether the extra attempts after kills are also used up."""
    return ran.attempt > _max_attempts(message) + KILLED_ATTEMPTS


def _max_attempts(message: Message) -> int:
    return max_attempts_of(message, registry.tasks().get(message.task))


def next_delivery(
    delivery: Delivery, due: float, response: int | None = None
) -> Delivery:
    """The headers after an answer of status `response`, or after none.

    They follow X-CloudTasks-* and X-AppEngine-*. On HTTP targets, a missing answer is
    reported as 504, and executions count neither that nor 5xx answers. App Engine
    counts every answer.
    """
    on_app_engine = isinstance(target(), AppEngineTarget)
    if response is None:
        previous = 0 if on_app_engine else 504
        reason = "Instance Unavailable" if on_app_engine else None
    else:
        previous, reason = response, "App Error" if on_app_engine else None
    counts = response is not None and (on_app_engine or response < 500)
    return replace(
        delivery,
        retries=delivery.retries + 1,
        executions=delivery.executions + int(counts),
        eta=due,
        previous_response=previous,
        retry_reason=reason,
    )


# Through HTTP


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
        if context.id == ran.id and outcome is not Outcome.UNSETTLED:
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
