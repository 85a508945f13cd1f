"""As a package on PyPI has it: written for Django's tasks, unaware of any backend."""

from __future__ import annotations

from tests.testapp.tasks import calls

try:
    from django.tasks import task
except ImportError:
    from django_tasks import task  # type: ignore[no-redef]


@task()
def send_newsletter(subject: str, *, recipients: list[str], dry_run: bool = False):
    calls.append((subject, recipients, dry_run))
    return {"sent": 0 if dry_run else len(recipients)}


@task(priority=0, queue_name="default", takes_context=True)
def resize(context, path, sizes):
    calls.append((context.attempt, path, sizes))


def send_all(subject, recipients):
    return [send_newsletter.enqueue(subject, recipients=[one]) for one in recipients]
