"""The tasks of the journeys."""

from __future__ import annotations

from django.contrib.auth.models import Group

from cloudtask import task


@task
def nothing(number: int, template: str = "plain") -> None:
    pass


@task
def visit(group: Group) -> None:
    pass
