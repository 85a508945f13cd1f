"""Other ways to run a function later, each a small module with its usual settings.

A module is a peer. It defines:

* `TITLE`, and `PACKAGES` whose versions are shown
* `PROMISE`: one sentence on what a crash can lose
* `KEEPS`: whether each call runs at least once, also when the caller's process ends
  right after the commit of its transaction
* `workers()`: the commands of its processes, two workers with one call at a time each
* `enqueue(number, milliseconds)`, and `enqueue_many(numbers)` if there is a call for it
* `IN_TRANSACTION`: whether `enqueue` takes part in an open transaction; the callers of
  others wait for `on_commit`
* `prepare()`: empties what an earlier run has left
* `PORTS`, if it has servers of its own: names of ports on which they must answer

To add a peer, write a module and name it in `PEERS`.
"""

from __future__ import annotations

PEERS = (
    "cloudtask_emulator",
    "cloudtask_sync",
    "cloudtask_gcloud_emulator",
    "celery_redis",
    "celery_redis_early",
    "celery_rabbitmq",
    "celery_rabbitmq_early",
    "dramatiq_redis",
    "rq_redis",
    "huey_redis",
    "procrastinate_postgres",
    "django_tasks_db_postgres",
)
OURS = PEERS[0]
# With chains, groups and iterations: `chained`, `grouped`, `walk`.
FLOWS = ("cloudtask_flows", "celery_flows")
