"""What the API refuses, with the codes and words of Google Cloud Tasks.

The messages were recorded from the real service by the maintainers of the
aertje/cloud-tasks-emulator project; those that nobody has recorded follow their shape.
"""

from __future__ import annotations

from dataclasses import dataclass

import grpc

_REFERENCE = "https://cloud.google.com/tasks/docs/reference/rest/v2/"


@dataclass(frozen=True, slots=True)
class Help:
    """A link that the service attaches to some refusals (`google.rpc.Help`)."""

    description: str
    url: str


class ApiError(Exception):
    """A call that is answered with a status other than OK."""

    def __init__(
        self, code: grpc.StatusCode, message: str, help_link: Help | None = None
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.help_link = help_link


def invalid(message: str, help_link: Help | None = None) -> ApiError:
    return ApiError(grpc.StatusCode.INVALID_ARGUMENT, message, help_link)


def queue_not_found() -> ApiError:
    return ApiError(
        grpc.StatusCode.NOT_FOUND,
        "Queue does not exist. If you just created the queue, wait at least a minute "
        "for the queue to initialize.",
    )


def not_found() -> ApiError:
    return ApiError(grpc.StatusCode.NOT_FOUND, "Requested entity was not found.")


def task_gone() -> ApiError:
    return ApiError(
        grpc.StatusCode.NOT_FOUND,
        "The task no longer exists, though a task with this name existed recently. "
        "The task either successfully completed or was deleted.",
    )


def task_exists() -> ApiError:
    return ApiError(grpc.StatusCode.ALREADY_EXISTS, "Requested entity already exists")


def queue_exists() -> ApiError:
    return ApiError(grpc.StatusCode.ALREADY_EXISTS, "Queue already exists")


def queue_existed() -> ApiError:
    return ApiError(
        grpc.StatusCode.FAILED_PRECONDITION,
        "The queue cannot be created because a queue with this name existed too "
        "recently.",
    )


def project_denied(project: str) -> ApiError:
    return ApiError(
        grpc.StatusCode.PERMISSION_DENIED,
        f"Permission denied on resource project {project}.",
    )


def bad_queue_name() -> ApiError:
    return invalid(
        'Queue name must be formatted: "projects/<PROJECT_ID>/locations/<LOCATION_ID>'
        '/queues/<QUEUE_ID>".',
        Help(
            "Definition of queue name",
            f"{_REFERENCE}projects.locations.queues#Queue.FIELDS.name",
        ),
    )


def bad_task_name() -> ApiError:
    return invalid(
        'Task name must be formatted: "projects/<PROJECT_ID>/locations/<LOCATION_ID>'
        '/queues/<QUEUE_ID>/tasks/<TASK_ID>"'
    )


def bad_task_id(task_id: str) -> ApiError:
    return invalid(
        f'Task ID "{task_id}" can contain only letters ([A-Za-z]), numbers ([0-9]), '
        "hyphens (-), or underscores (_). Task ID must between 1 and 500 characters.",
        Help(
            "Definition of task ID",
            f"{_REFERENCE}projects.locations.queues.tasks#Task.FIELDS.name",
        ),
    )
