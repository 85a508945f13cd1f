"""Lists the limits of a task: those of Cloud Tasks, and those that this library adds.

The figures of the service are those of https://cloud.google.com/tasks/docs/quotas and
of the comments in google/cloud/tasks/v2/task.proto and target.proto.
"""

from __future__ import annotations

import re

# Of the service.
TASK = 1_048_569  # bytes of a stored task: names, headers and times included
HORIZON = 30 * 24 * 3600.0  # seconds; the service takes no later schedule_time
NAME = re.compile(r"[A-Za-z0-9_-]{1,500}")
QUEUE = re.compile(r"[A-Za-z0-9-]{1,100}")
URL = 2083  # characters
HEADERS = 80 * 1024  # bytes, names and values together
BATCH = 100  # tasks of one BatchCreateTasks
BATCH_BYTES = 3_500_000  # of one request; gRPC servers take 4 MiB by default

# Of this library.
SMALL = 100 * 1024  # bytes of payload with `small`, which is djangae's limit
PAYLOAD = 32 * 1024 * 1024  # bytes of payload in all
RESULT = 1_000_000  # bytes of an encoded result
EXPANDED = 2 * PAYLOAD  # bytes that compressed data may expand to
PAST = 60.0  # seconds by which an eta may lie behind without a warning: clocks differ
INLINE = 1_000_000  # bytes of a task that needs no store: the default of MAX_TASK_SIZE
BODY = 1_200_000  # bytes that the handler reads: the default of MAX_BODY_SIZE
OVERHEAD = 4096  # bytes kept free in a task for its names, url, envelope and policy
