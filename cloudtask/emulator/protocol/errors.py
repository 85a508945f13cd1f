"""Makes the refusals of the API, with the codes and words of Google Cloud Tasks.

The maintainers of aertje/cloud-tasks-emulator recorded most of the messages from the
real service (`tests/emulator/recorded.py` lists them). The others follow their shape.
"""

from __future__ import annotations

import grpc
from google.rpc import error_details_pb2  # type: ignore[import-untyped]

from cloudtask.emulator.protocol.messages import Message

_REFERENCE = "https://cloud.google.com/tasks/docs/reference/rest/v2/"


class ApiError(Exception):
    """A call that is answered with a status other than OK.

    `details` are messages of `google.rpc`, such as a link that explains the refusal.
    """

    def __init__(self, code: grpc.StatusCode, message: str, *details: Message) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.details = details


def invalid(message: str, *details: Message) -> ApiError:
    return ApiError(grpc.StatusCode.INVALID_ARGUMENT, message, *details)


def unimplemented(message: str) -> ApiError:
    return ApiError(grpc.StatusCode.UNIMPLEMENTED, message)


def internal() -> ApiError:
    return ApiError(grpc.StatusCode.INTERNAL, "Internal error encountered.")


def unavailable(message: str) -> ApiError:
    return ApiError(grpc.StatusCode.UNAVAILABLE, message)


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
    message = f"Permission denied on resource project {project}."
    return ApiError(
        grpc.StatusCode.PERMISSION_DENIED,
        message,
        error_details_pb2.ErrorInfo(
            reason="CONSUMER_INVALID",
            domain="googleapis.com",
            metadata={
                "consumer": f"projects/{project}",
                "containerInfo": project,
                "service": "cloudtasks.googleapis.com",
            },
        ),
        error_details_pb2.LocalizedMessage(locale="en-US", message=message),
        _link("Google developers console", "https://console.developers.google.com"),
    )


def bad_queue_name() -> ApiError:
    return invalid(
        'Queue name must be formatted: "projects/<PROJECT_ID>/locations/<LOCATION_ID>'
        '/queues/<QUEUE_ID>".',
        _link(
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
        _link(
            "Definition of task ID",
            f"{_REFERENCE}projects.locations.queues.tasks#Task.FIELDS.name",
        ),
    )


def _link(description: str, url: str) -> Message:
    link = error_details_pb2.Help.Link(description=description, url=url)
    return error_details_pb2.Help(links=[link])
