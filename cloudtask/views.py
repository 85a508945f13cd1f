"""Answers Cloud Tasks and cron jobs; each answer says what follows."""

from __future__ import annotations

import hmac
import logging
from collections.abc import Callable

from django.contrib.auth.decorators import login_not_required
from django.db import connections, transaction
from django.http import HttpRequest, HttpResponse
from django.views.decorators.csrf import csrf_exempt

from cloudtask import clock, conf, envelope, gauges, runtime
from cloudtask.discretion import discreet
from cloudtask.envelope import NotAnEnvelope
from cloudtask.exceptions import (
    BadSignature,
    EnqueueError,
    PayloadError,
    TaskNotFound,
    UntrustedRequest,
)
from cloudtask.iteration import sweep
from cloudtask.message import Message
from cloudtask.schedules.ticking import tick
from cloudtask.sending.relay import relay_all
from cloudtask.targets import (
    AppEngineTarget,
    SentHeaders,
    delivery_of,
    on_app_engine,
    target,
)
from cloudtask.targets.guards import is_cron_request, is_trusted

OUTCOME_HEADER = "X-CloudTask-Outcome"
RELAY_SECONDS = 25.0  # a database; Cloud Scheduler waits three minutes by default

POST_ONLY = "POST only"

View = Callable[..., HttpResponse]

logger = logging.getLogger("cloudtask")
security = logging.getLogger("django.security.cloudtask")


def _in_autocommit(view: View) -> View:
    """Keep ATOMIC_REQUESTS off the view, whichever databases have it.

    The consequence of a delivery must be durable before the answer.
    """
    for alias in connections:
        view = transaction.non_atomic_requests(alias)(view)
    return view


class Refused(Exception):
    """A request that runs no task; `status` is the answer."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status = status


@csrf_exempt
@login_not_required
@_in_autocommit
@discreet
def run(request: HttpRequest, task: str) -> HttpResponse:
    """Run one delivery of `task`.

    403: not from our queues, or not sealed by us. 405, 413, 400: not a delivery. 404:
    the task is unknown to this version. 500: Cloud Tasks is to try again. 200: settled,
    successfully or not. Never 503 or 429, which throttle the whole queue.
    """
    try:
        message = _message_of(request, task)
    except Refused as refused:
        return _answer(refused.status, str(refused))
    try:
        outcome = runtime.execute(message, delivery_of(SentHeaders(request)))
    except TaskNotFound as error:
        logger.error("%s", error)
        return _answer(404, "unknown task")
    except EnqueueError as error:
        logger.error("Task %s (%s) is not settled: %s", task, message.id, error)
        return _answer(500, "not settled")
    response = _answer(200 if outcome.is_settled else 500, outcome.value)
    # A failed task is acknowledged with 200. Logs of the emulator and of proxies can
    # show the outcome none the less.
    response[OUTCOME_HEADER] = outcome.value
    return response


@csrf_exempt
@login_not_required
@_in_autocommit
@discreet
def relay(request: HttpRequest) -> HttpResponse:
    """Send what waits in the outboxes: for Cloud Scheduler, App Engine's cron, or cron.

    200: the counts. 403: not a cron job of this project. 500: a database or a step
    failed; the others were relayed.
    """
    if request.method not in ("GET", "POST"):
        return _answer(405, "GET or POST")
    if not _may_relay(request):
        security.error("A request to relay the outbox was refused.")
        return _answer(403, "untrusted")
    outcomes = [_tried(_ticked), _tried(_relayed), _tried(_swept)]
    gauges.report()
    return _answer(200 if all(outcomes) else 500, ", ".join(filter(None, outcomes)))


def _ticked() -> str:
    return str(tick())


def _relayed() -> str:
    return str(relay_all(seconds=RELAY_SECONDS))


def _swept() -> str:
    return f"{sweep()} lost steps made again"


def _tried(work: Callable[[], str]) -> str | None:
    """The result of `work`; None when it failed, which is logged."""
    try:
        return work()
    except Exception:
        logger.exception("A part of a relay by URL failed.")
        return None


def _may_relay(request: HttpRequest) -> bool:
    """Whether the request has the RELAY_TOKEN, or comes from a cron job.

    A request with the target's OIDC token may relay without the header of a cron job.
    The header of App Engine's queues is not such a proof.
    """
    token = conf.settings().relay_token
    given = request.headers.get("Authorization", "").removeprefix("Bearer ")
    if token and hmac.compare_digest(token.encode(), given.encode()):
        return True
    if conf.emulator_host() and _is_development_token(given):
        return True
    if isinstance(target(), AppEngineTarget):
        return on_app_engine() and (is_cron_request(request) or is_trusted(request))
    return is_cron_request(request) or is_trusted(request)


_FROM_THE_EMULATOR = ("emulator", "relay")


def development_token() -> str:
    """With an emulator in the environment, and only then, this token may relay."""
    return envelope.seal_text("relay", place=_FROM_THE_EMULATOR)


def _is_development_token(given: str) -> bool:
    try:
        return envelope.unseal_text(given, place=_FROM_THE_EMULATOR) == "relay"
    except PayloadError:
        return False


def _message_of(request: HttpRequest, task: str) -> Message:
    """The signed message of a trusted request; raises Refused for any other."""
    if request.method != "POST":
        raise Refused(405, POST_ONLY)
    try:
        target().verify(request)
    except UntrustedRequest as error:
        security.error("A request for task %r was refused: %s", task, error)
        raise Refused(403, "untrusted") from error
    body = _body(request, task)
    try:
        message = envelope.unseal(body, now=clock.now())
    except NotAnEnvelope as error:
        logger.error("A delivery of task %r was refused: %s", task, error)
        raise Refused(400, "not an envelope") from error
    except BadSignature as error:
        security.error("A delivery of task %r was refused: %s", task, error)
        raise Refused(403, "bad signature") from error
    except PayloadError as error:
        logger.error("A delivery of task %r can't be read: %s", task, error)
        raise Refused(400, "unreadable") from error
    if message.task != task:
        security.error(
            "A delivery of task %r was refused: its body is of %s.", task, message.task
        )
        raise Refused(403, "body of another task")
    return message


def _body(request: HttpRequest, task: str) -> bytes:
    limit = conf.settings().max_body_size
    if not _announces_more(request, limit):
        # Not request.body: its limit, DATA_UPLOAD_MAX_MEMORY_SIZE, is set for forms.
        body: bytes = request.read(limit + 1)
        # So that request.body can be read after the view, too: Django keeps it there.
        request._body = body
        if len(body) <= limit:
            return body
    logger.error(
        "A delivery of task %r was refused: it is larger than the %s bytes of "
        "CLOUDTASK['MAX_BODY_SIZE'].",
        task,
        limit,
    )
    raise Refused(413, "too large")


def _announces_more(request: HttpRequest, limit: int) -> bool:
    length = request.META.get("CONTENT_LENGTH") or "0"
    return length.isdecimal() and (len(length) > 15 or int(length) > limit)


def _answer(status: int, text: str) -> HttpResponse:
    response = HttpResponse(text, status=status, content_type="text/plain")
    if status == 405:
        response["Allow"] = "POST"
    # This module has logged it. Django would log each refusal again, and a task that is
    # to be retried as an error of the server.
    response._has_been_logged = True  # type: ignore[attr-defined]
    return response
