"""Probes of the way of a delivery: the handler's address, and a task there and back."""

from __future__ import annotations

import http.client
import ssl
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit

from cloudtask import clock, queues, registry
from cloudtask.delivering import results
from cloudtask.doctor.findings import (
    Finding,
    Probe,
    Wish,
    failed,
    ok,
    skipped,
    warning,
)
from cloudtask.exceptions import EnqueueError
from cloudtask.message import Enqueued
from cloudtask.options import Options
from cloudtask.queues import QueuesUnknown
from cloudtask.queues.listing import is_in_memory, used
from cloudtask.registry import Definition
from cloudtask.sending import enqueueing
from cloudtask.stores.results import ResultState
from cloudtask.targets import HttpTarget, handler_path, target

# The name travels, so it follows from no place in the code.
PING = "cloudtask.ping"

ANSWERS = 5.0  # seconds for the handler's answer
BACK = 60.0  # seconds in which a task must be there and back
POLL = 0.1
UNTRUSTED = b"untrusted"  # the handler's answer to a request without a token

_INCLUDE = "Add path('_cloudtask/', include('cloudtask.urls')) to the URLs."
_CURES = {
    400: "Add the host of CLOUDTASK['TARGET']['URL'] to ALLOWED_HOSTS.",
    403: "Grant roles/run.invoker on the service to the account of the tasks, if Cloud "
    "Run answers; let the CSRF check of your middleware pass the path, if Django does.",
    404: f"{_INCLUDE} If a proxy changes the path, set CLOUDTASK['PREFIX'].",
    405: "Let your proxy or middleware pass POST requests to the handler.",
    503: "Let maintenance mode pass the handler's path, or start the service.",
}
_OTHERS = "Look what answers at that address: it is not the handler of cloudtask."


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    body: bytes
    location: str


def handler(wish: Wish) -> Iterator[Finding]:
    """The handler answers at the address to which Cloud Tasks delivers."""
    url = wish.url or _url()
    if url is None:
        yield skipped(
            "The settings don't tell the address of this service: give --url, e.g. "
            "https://app.example."
        )
        return
    path = handler_path(PING)
    try:
        answer = _posted(url, path)
    except (OSError, http.client.HTTPException, ValueError) as error:
        yield failed(
            f"{url} does not answer: {type(error).__name__}: {error}",
            "Start the service, or correct CLOUDTASK['TARGET']['URL'].",
        )
        return
    yield _judged(answer, url, path)


def _url() -> str | None:
    found = target()
    return found.here if isinstance(found, HttpTarget) else None


def _posted(url: str, path: str) -> _Answer:
    """The answer to a POST without a token; redirects are not followed."""
    place = urlsplit(url)
    made: http.client.HTTPConnection
    if place.scheme == "https":
        made = http.client.HTTPSConnection(
            place.netloc, timeout=ANSWERS, context=ssl.create_default_context()
        )
    else:
        made = http.client.HTTPConnection(place.netloc, timeout=ANSWERS)
    try:
        made.request("POST", place.path.rstrip("/") + path, b"doctor")
        answer = made.getresponse()
        location = answer.headers.get("Location", "")
        return _Answer(answer.status, answer.read(1000), location)
    finally:
        made.close()


def _judged(answer: _Answer, url: str, path: str) -> Finding:
    if answer.status == 403 and answer.body == UNTRUSTED:
        return ok(f"The handler at {url} refuses requests without a token.")
    if answer.status == 400 and answer.body == b"not an envelope":
        return warning(
            f"The handler at {url} asks for no token.",
            "Leave CLOUDTASK['TARGET']['VERIFY'] out.",
        )
    to = f" with a redirect to {answer.location}" if answer.location else ""
    return failed(
        f"A request to {url}{path} was answered {answer.status}{to}, not by the "
        "handler: no task would run.",
        _cure_for(answer),
    )


def _cure_for(answer: _Answer) -> str:
    if answer.location:
        if "login" in answer.location:
            return "Let the middleware that asks for a login pass the handler's path."
        return (
            "Use https in CLOUDTASK['TARGET']['URL'], or add the path to "
            "SECURE_REDIRECT_EXEMPT."
        )
    return _CURES.get(answer.status, _OTHERS)


# There and back


def _ping() -> float:
    """When it ran, in unix seconds."""
    return clock.now()


_OPTIONS = Options(small=True, transactional=False, keep_result=timedelta(minutes=10))
registry.register(Definition(PING, _ping, _OPTIONS))


@dataclass(frozen=True, slots=True)
class _Sent:
    """A ping on its way: when it left, by a clock that only moves ahead."""

    receipt: Enqueued
    at: float


def there_and_back(wish: Wish) -> Iterator[Finding]:
    """A task of each queue runs, and its result comes back."""
    if not wish.send:
        yield skipped("No task is sent without --send.")
        return
    if is_in_memory():
        yield skipped("Tasks stay in the memory of this process.")
        return
    under_way: list[_Sent] = []
    for name in used() or ["default"]:
        try:
            under_way.append(sent(name))
        except EnqueueError as error:
            yield failed(str(error), _cure_of_refusal(str(error)))
    yield from _awaited(under_way)


def sent(queue: str) -> _Sent:
    """Send a task through a queue; raises EnqueueError."""
    started = time.monotonic()
    definition = registry.find(PING)
    options = replace(_OPTIONS, queue=queue)
    return _Sent(enqueueing.enqueue(definition, options, (), {}), started)


def _cure_of_refusal(text: str) -> str:
    if "actas" in text.lower():
        return (
            "Grant roles/iam.serviceAccountUser on the account of the tasks to the "
            "account of this process."
        )
    if "does not exist" in text:
        return "Run `manage.py cloudtask_queues apply`."
    return "Grant roles/cloudtasks.enqueuer to the account of this process."


def _awaited(under_way: list[_Sent]) -> Iterator[Finding]:
    stop = time.monotonic() + BACK
    while under_way and time.monotonic() < stop:
        for one in list(under_way):
            found = results.find(one.receipt.id)
            if found is not None:
                under_way.remove(one)
                yield _arrived(one, found)
        time.sleep(POLL)
    for one in under_way:
        yield missing(one.receipt)


def _arrived(one: _Sent, found: Any) -> Finding:
    if found.state is not ResultState.SUCCEEDED:
        return failed(
            f"The task of the queue {one.receipt.queue!r} failed: {found.error}",
            "Look at the log of the service.",
        )
    seconds = time.monotonic() - one.at
    return ok(f"A task of {one.receipt.queue!r} was back after {seconds:.1f} s.")


def missing(receipt: Enqueued) -> Finding:
    """The finding about a task that did not come back. It is deleted."""
    what = f"The task of the queue {receipt.queue!r} was created, and has not run"
    try:
        seen = queues.take_back(receipt.queue, receipt.name)
    except QueuesUnknown as error:
        return failed(f"{what}: {error}", "Look at the queue's log.")
    if seen is None:
        return failed(
            f"{what} here: it has left the queue, and no result is in this store.",
            "Let the service and this process use the same CLOUDTASK['STORE'].",
        )
    if not seen.tries:
        return failed(
            f"{what}: the queue has not sent it.",
            f"Run `manage.py cloudtask_queues resume {receipt.queue}`, or wait until "
            "earlier tasks are done.",
        )
    return failed(f"{what}: the service answered {seen.answer!r}.", _cure_of(seen))


def _cure_of(seen: queues.SeenTask) -> str:
    if seen.is_refused:
        return (
            "Let the service and this process have the same CLOUDTASK['TARGET'] (URL, "
            "AUDIENCE and SERVICE_ACCOUNT) and SECRET_KEY; the service's log says "
            "which of them differs."
        )
    return "Run `manage.py cloudtask_doctor --only handler`, and look at its log."


PROBES = (
    Probe(id="handler", about="the handler", look=handler, seconds=10.0),
    Probe(
        id="send",
        about="a task there and back",
        look=there_and_back,
        seconds=BACK + 15.0,
    ),
)
