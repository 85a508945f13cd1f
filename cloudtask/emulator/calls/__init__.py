"""The calls of the API, by name: functions of the state and a request."""

from cloudtask.emulator.calls import batches, others, queue_rules, queues, tasks
from cloudtask.emulator.calls.state import Journal, State
from cloudtask.emulator.calls.task_rules import HTTP_AGENT, deadline_of
from cloudtask.emulator.calls.tasks import run_task
from cloudtask.emulator.calls.versions import Call, answer

CALLS: dict[str, Call] = {
    "ListQueues": queues.list_queues,
    "GetQueue": queues.get_queue,
    "CreateQueue": queues.create_queue,
    "UpdateQueue": queues.update_queue,
    "DeleteQueue": queues.delete_queue,
    "PurgeQueue": queues.purge_queue,
    "PauseQueue": queues.pause_queue,
    "ResumeQueue": queues.resume_queue,
    "ListTasks": tasks.list_tasks,
    "GetTask": tasks.get_task,
    "CreateTask": tasks.create_task,
    "DeleteTask": tasks.delete_task,
    "BatchCreateTasks": batches.batch_create_tasks,
    "BatchDeleteTasks": batches.batch_delete_tasks,
    "GetIamPolicy": others.get_iam_policy,
    "SetIamPolicy": others.set_iam_policy,
    "TestIamPermissions": others.test_iam_permissions,
    "GetCmekConfig": others.get_cmek_config,
    "UpdateCmekConfig": others.update_cmek_config,
    "GetOperation": batches.get_operation,
    "ListLocations": others.list_locations,
    "GetLocation": others.get_location,
}
"""All but RunTask, which may have to wait: `run_task` says for what."""

__all__ = [
    "CALLS",
    "HTTP_AGENT",
    "Call",
    "Journal",
    "State",
    "answer",
    "deadline_of",
    "queue_rules",
    "run_task",
]
