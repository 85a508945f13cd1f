"""An app that declares a task where its models are."""

from __future__ import annotations

from cloudtask.backends.library import task


@task
def early() -> None:
    pass
