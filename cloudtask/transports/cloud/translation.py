"""Converts errors of Google's clients to errors of this library."""

from __future__ import annotations

from cloudtask import conf
from cloudtask.clients import PASSING, code_of
from cloudtask.exceptions import (
    DuplicateTask,
    EnqueueError,
    EnqueueUnavailable,
    PayloadTooLarge,
    QueueNotFound,
)
from cloudtask.message import Message


def translated(error: Exception, message: Message, *, parent: str = "") -> EnqueueError:
    """The error to raise, `from error`, for a create_task that failed.

    `parent` is the full name of the queue.
    """
    code = code_of(error)
    text = str(getattr(error, "message", error))
    what = f"Task {message.task} ({message.id})"
    where = f"queue {message.queue!r}"
    if code == "ALREADY_EXISTS":
        return DuplicateTask(
            f"{what} was refused: a task named {message.name!r} is in {where}, or ran "
            "a short while ago. Names are free again after up to 24 hours."
        )
    if code == "NOT_FOUND" or (
        code == "FAILED_PRECONDITION" and "queue" in text.lower()
    ):
        # The id of a part, if the queue is spread.
        queue = parent.rpartition("/")[2] or message.queue
        return _no_queue(what, queue, parent, text)
    if code == "INVALID_ARGUMENT" and "too large" in text.lower():
        return PayloadTooLarge(f"{what} is too large for {where}. ({text})")
    host = conf.emulator_host()
    if code == "UNAVAILABLE" and host is not None and _is_unanswered(text):
        return EnqueueUnavailable(
            f"{what} was not enqueued on {where}: no emulator answers at {host}. Start "
            f"it, or correct CLOUD_TASKS_EMULATOR_HOST. ({text})"
        )
    if code in PASSING:
        return unavailable(message, f"{code}: {text}")
    if code in {"PERMISSION_DENIED", "UNAUTHENTICATED"}:
        return EnqueueError(
            f"{what} was not enqueued on {where}: the account of this process needs "
            f"the role roles/cloudtasks.enqueuer, and iam.serviceAccounts.actAs on the "
            f"target's account. ({code}: {text})"
        )
    return EnqueueError(f"{what} was refused by {where}: {code}: {text}")


def _is_unanswered(text: str) -> bool:
    """Whether gRPC made no connection: a server may also say UNAVAILABLE."""
    return "failed to connect" in text or "DNS resolution failed" in text


def _no_queue(what: str, queue: str, parent: str, text: str) -> QueueNotFound:
    """The error with project, location, and the command that creates the queue."""
    _, project, _, location, *_ = [*parent.split("/"), "", "", "", ""]
    there = f" in project {project!r}, location {location!r}" if location else ""
    command = f"gcloud tasks queues create {queue}"
    if location:
        command += f" --project={project} --location={location}"
    return QueueNotFound(
        f"{what} was not enqueued: queue {queue!r} does not exist{there}. Create it "
        f"with `{command}`; a new queue takes a minute to work. ({text})"
    )


def unavailable(message: Message, reason: str) -> EnqueueUnavailable:
    return EnqueueUnavailable(
        f"Task {message.task} ({message.id}) was not enqueued on queue "
        f"{message.queue!r}: Cloud Tasks could not be reached, or did not answer in "
        f"time. Trying again may help. ({reason})"
    )
