"""Signals. The sender is the import path of the task, a str.

* `task_enqueued(sender, message)`
* `task_started(sender, context)`
* `task_finished(sender, context, outcome, error)`: `error` is the exception or None
* `row_failed(sender, run, key, error, on_error)`: the callback of an iteration raised
  `error` for the row with this primary key; `run` is the id of the iteration
"""

from django.dispatch import Signal

task_enqueued = Signal()
task_started = Signal()
task_finished = Signal()
row_failed = Signal()
