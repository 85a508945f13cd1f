"""Probes of Cloud Tasks: credentials, queues, and the right to create tasks."""

from __future__ import annotations

from collections.abc import Iterator

from cloudtask import conf, queues
from cloudtask.conf.queues import queues_of_service
from cloudtask.doctor.findings import (
    Finding,
    Probe,
    Wish,
    failed,
    ok,
    skipped,
    warning,
)
from cloudtask.exceptions import ConfigurationError
from cloudtask.queues import ActualQueue, QueuesUnknown
from cloudtask.queues.listing import is_in_memory, used
from cloudtask.queues.plan import differences
from cloudtask.transports.cloud.requests import project, queue_path

SYNC = "Run `manage.py cloudtask_queues apply`."
MAY_CREATE = "cloudtasks.tasks.create"
MAY_DELETE = "cloudtasks.tasks.delete"  # cancel() works without it, but less soon
LOOKING = ("cloudtasks.tasks.get", "cloudtasks.tasks.list")  # cloudtask.inspect


def credentials(wish: Wish) -> Iterator[Finding]:
    """An account, a project and a location are known."""
    if is_in_memory():
        yield skipped("Tasks stay in the memory of this process.")
        return
    place = queue_path("x").partition("/queues/")[0]  # raises ConfigurationError
    if (host := conf.emulator_host()) is not None:
        yield skipped(f"The emulator at {host} asks for no account; {place}.")
        return
    import google.auth
    from google.auth.exceptions import GoogleAuthError

    try:
        found, _ = google.auth.default()
    except GoogleAuthError as error:
        yield failed(
            f"No Google credentials were found: {error}",
            "Run `gcloud auth application-default login`, or run on Google Cloud.",
        )
        return
    account = getattr(found, "service_account_email", None) or "a user"
    yield ok(f"The account is {account}; project {project()}; {place}.")


def queue_states(wish: Wish) -> Iterator[Finding]:
    """All queues that tasks use are there, send, and never give up by themselves."""
    if is_in_memory():
        yield skipped("Tasks stay in the memory of this process.")
        return
    try:
        actual = queues.list_queues()
    except QueuesUnknown as error:
        yield failed(str(error), _cure_of(error))
        return
    number = 0
    for name in _wanted_of_service():
        found = list(_faults_of(name, actual.get(name)))
        yield from found
        number += not found
    yield ok(f"{number} queues are as they must be.")


def _wanted_of_service() -> list[str]:
    """The same as the service has them: all parts of those that are spread."""
    declared = conf.settings().queues
    return [
        part
        for name in used()
        for part in (declared[name].parts if name in declared else (name,))
    ]


def _cure_of(error: QueuesUnknown) -> str:
    if error.right:
        return (
            "Grant roles/cloudtasks.viewer to the account of this process: `gcloud "
            f"projects add-iam-policy-binding {_project_or_blank()} --role="
            "roles/cloudtasks.viewer --member=serviceAccount:ACCOUNT`."
        )
    return "Look at CLOUDTASK['PROJECT'] and ['LOCATION'], and at the network."


def _project_or_blank() -> str:
    try:
        return project()
    except ConfigurationError:
        return "PROJECT"


def _faults_of(name: str, actual: ActualQueue | None) -> Iterator[Finding]:
    declared = queues_of_service(conf.settings().queues).get(name)
    if actual is None:
        cure = SYNC if declared else f"Add {name!r} to CLOUDTASK['QUEUES']. {SYNC}"
        yield failed(f"The queue {name!r} is missing.", cure)
        return
    if actual.state == "PAUSED":
        yield warning(
            f"The queue {name!r} is paused: it takes tasks and sends none.",
            f"Run `manage.py cloudtask_queues resume {name}`.",
        )
    elif actual.state == "DISABLED":
        yield failed(
            f"The queue {name!r} is disabled: a queue.yaml omits it.",
            f"Run `manage.py cloudtask_queues resume {name}`, and use no queue.yaml.",
        )
    if actual.max_attempts > 0 or actual.max_retry_duration:
        yield failed(_giving_up(actual), f"Set it to -1. {SYNC}")
    elif declared is not None and list(differences(declared, actual)):
        yield warning(
            f"The queue {name!r} is not as CLOUDTASK['QUEUES'] declares it.",
            "Run `manage.py cloudtask_queues plan` to see the differences, then "
            "`manage.py cloudtask_queues apply`.",
        )


def _giving_up(actual: ActualQueue) -> str:
    after = (
        f"{actual.max_attempts:,} attempts"
        if actual.max_attempts > 0
        else f"{actual.max_retry_duration}"
    )
    return f"The queue {actual.name!r} gives up after {after}, in silence."


def permissions(wish: Wish) -> Iterator[Finding]:
    """This process may create tasks."""
    if is_in_memory():
        yield skipped("Tasks stay in the memory of this process.")
        return
    for name in used()[:1] or ["default"]:
        try:
            asked = [MAY_CREATE, MAY_DELETE, *LOOKING]
            found = queues.permissions(name, asked)
        except QueuesUnknown as error:
            yield skipped(f"The service did not tell: {error}")
            continue
        yield from _further(found)
        if MAY_CREATE in found:
            yield ok(f"The account may create tasks in {name!r}.")
            continue
        yield failed(
            f"The account may not create tasks in {name!r}.",
            "Grant roles/cloudtasks.enqueuer to the account of this process: `gcloud "
            f"projects add-iam-policy-binding {_project_or_blank()} --role="
            "roles/cloudtasks.enqueuer --member=serviceAccount:ACCOUNT`.",
        )


def _further(found: set[str]) -> Iterator[Finding]:
    """The missing rights that only some projects need."""
    if missing := [right for right in LOOKING if right not in found]:
        yield skipped(
            f"cloudtask.inspect and cloudtask_cancel can't look into queues: the "
            f"account lacks {' and '.join(missing)}. roles/cloudtasks.viewer has them."
        )
    if MAY_DELETE not in found:
        yield skipped(
            f"A cancelled call stays in its queue until it is due: the account lacks "
            f"{MAY_DELETE}. roles/cloudtasks.taskDeleter has it."
        )


PROBES = (
    Probe(id="credentials", about="credentials", look=credentials, seconds=10.0),
    Probe(id="queues", about="the queues", look=queue_states, seconds=10.0),
    Probe(id="permissions", about="permissions", look=permissions, seconds=10.0),
)
