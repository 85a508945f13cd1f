"""Defines the signals. The sender is the import path of the task, a str.

Of calls:

* `task_enqueued(sender, message)`: `message` has `id`, `name`, `queue` and `eta`; it
  may wait for a commit
* `task_started(sender, context)`: a delivery begins; `context` is `current()`
* `task_finished(sender, context, outcome, error)`: the same delivery has ended.
  `outcome` is a `cloudtask.runtime.Outcome`, `error` the exception or None

Each `task_started` has its `task_finished`, unless the process is killed.

Of iterations, whose id is `run`:

* `iteration_started(sender, run, state, error)`: the first shards are planned
* `iteration_paused(sender, run, state, error)`: `error` says why, "" for `pause()`
* `iteration_failed(sender, run, state, error)`: it can't go on until it is resumed
* `iteration_finished(sender, run, state, error)`: it has ended, and `finalize` or
  `on_failure` has returned. `state` is "finished", "cancelled" or "aborted"
* `row_failed(sender, run, key, error, on_error)`: the callback of an iteration raised
  `error` for the row with this primary key

Of schedules:

* `schedule_missed(sender, schedule, count)`: no call is made for `count` moments of the
  schedule with this key; 10,000 means at least as many

Of people:

* `dashboard_action(sender, user, object, text)`: a user has done something in the
  dashboard; the sender is the verb, such as "retry", and `object` tells on what

The signals of calls and iterations are sent once, after the change is durable, by the
process that made it. If that process is killed just then, they are not sent.
"""

from django.dispatch import Signal

task_enqueued = Signal()
task_started = Signal()
task_finished = Signal()
iteration_started = Signal()
iteration_paused = Signal()
iteration_failed = Signal()
iteration_finished = Signal()
row_failed = Signal()
schedule_missed = Signal()
dashboard_action = Signal()
