"""The raw protobuf classes of the API, and times in and out of them.

proto-plus wraps every field access; on the road that each task travels the bare classes
are three times as fast. Nothing describes their types to mypy, hence `Message`.
"""

from __future__ import annotations

from typing import Any, TypeAlias

from google.cloud.location import locations_pb2  # type: ignore[import-untyped]
from google.cloud.tasks_v2 import types
from google.iam.v1 import (  # type: ignore[import-untyped]
    iam_policy_pb2,
    policy_pb2,
)
from google.longrunning import operations_pb2  # type: ignore[import-untyped]
from google.protobuf import empty_pb2
from google.rpc import (  # type: ignore[import-untyped]
    error_details_pb2,
    status_pb2,
)

Message: TypeAlias = Any

Queue = types.Queue.pb()
Task = types.Task.pb()
HttpTarget = types.HttpTarget.pb()
CmekConfig = types.CmekConfig.pb()
AppEngineRouting = types.AppEngineRouting.pb()
RetryConfig = types.RetryConfig.pb()

CreateQueueRequest = types.CreateQueueRequest.pb()
GetQueueRequest = types.GetQueueRequest.pb()
ListQueuesRequest = types.ListQueuesRequest.pb()
ListQueuesResponse = types.ListQueuesResponse.pb()
UpdateQueueRequest = types.UpdateQueueRequest.pb()
DeleteQueueRequest = types.DeleteQueueRequest.pb()
PurgeQueueRequest = types.PurgeQueueRequest.pb()
PauseQueueRequest = types.PauseQueueRequest.pb()
ResumeQueueRequest = types.ResumeQueueRequest.pb()

CreateTaskRequest = types.CreateTaskRequest.pb()
GetTaskRequest = types.GetTaskRequest.pb()
ListTasksRequest = types.ListTasksRequest.pb()
ListTasksResponse = types.ListTasksResponse.pb()
DeleteTaskRequest = types.DeleteTaskRequest.pb()
RunTaskRequest = types.RunTaskRequest.pb()
BatchCreateTasksRequest = types.BatchCreateTasksRequest.pb()
BatchCreateTasksResponse = types.BatchCreateTasksResponse.pb()
BatchCreateTasksMetadata = types.BatchCreateTasksMetadata.pb()
BatchDeleteTasksRequest = types.BatchDeleteTasksRequest.pb()
BatchDeleteTasksMetadata = types.BatchDeleteTasksMetadata.pb()
GetCmekConfigRequest = types.GetCmekConfigRequest.pb()
UpdateCmekConfigRequest = types.UpdateCmekConfigRequest.pb()

Empty = empty_pb2.Empty
Policy = policy_pb2.Policy
Status = status_pb2.Status
Help = error_details_pb2.Help
Operation = operations_pb2.Operation
GetOperationRequest = operations_pb2.GetOperationRequest
WaitOperationRequest = operations_pb2.WaitOperationRequest
ListOperationsRequest = operations_pb2.ListOperationsRequest
ListOperationsResponse = operations_pb2.ListOperationsResponse
CancelOperationRequest = operations_pb2.CancelOperationRequest
DeleteOperationRequest = operations_pb2.DeleteOperationRequest
Location = locations_pb2.Location
GetLocationRequest = locations_pb2.GetLocationRequest
ListLocationsRequest = locations_pb2.ListLocationsRequest
ListLocationsResponse = locations_pb2.ListLocationsResponse
GetIamPolicyRequest = iam_policy_pb2.GetIamPolicyRequest
SetIamPolicyRequest = iam_policy_pb2.SetIamPolicyRequest
TestIamPermissionsRequest = iam_policy_pb2.TestIamPermissionsRequest
TestIamPermissionsResponse = iam_policy_pb2.TestIamPermissionsResponse

VIEW_BASIC, VIEW_FULL = 1, 2
STATE_RUNNING, STATE_PAUSED = 1, 2


def seconds_of(moment: Message) -> float:
    """A Timestamp or a Duration, in seconds."""
    return float(moment.seconds + moment.nanos / 1e9)


def put_time(field: Message, moment: float) -> None:
    """Write unix seconds into a Timestamp, cut to the microsecond."""
    micros = round(moment * 1e6)
    field.seconds, rest = divmod(micros, 1_000_000)
    field.nanos = rest * 1000


def put_duration(field: Message, length: float) -> None:
    """Write seconds into a Duration."""
    put_time(field, length)
