"""Signals; the sender is the import path of the task, a str.

`task_enqueued(sender, message)`, `task_started(sender, context)`,
`task_finished(sender, context, outcome, error)`; `error` is the exception or None.
"""

from django.dispatch import Signal

task_enqueued = Signal()
task_started = Signal()
task_finished = Signal()
