"""An app that declares a task where its models are."""

from __future__ import annotations

from cloudtask.backend.library import task


@task
def early() -> None:
    pass
