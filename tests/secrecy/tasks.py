"""Tasks that drop the secrets they get before they raise, as reports show frames."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from cloudtask import Retry, current, task
from cloudtask.backend.library import task as library_task
from tests.testapp.models import Author

MARK = "hunter2-marked-secret"


@task
def take(*args: Any, **kwargs: Any) -> None:
    del args, kwargs


def plain(*args: Any, **kwargs: Any) -> None:
    """A function that is deferred as it is."""
    del args, kwargs
    raise ValueError("broken")


@task(max_attempts=2)
def fail(*args: Any, **kwargs: Any) -> None:
    del args, kwargs
    raise ValueError("broken")


@task(max_attempts=2, atomic=True)
def fail_atomically(*args: Any, **kwargs: Any) -> None:
    del args, kwargs
    Author.objects.create(name="a")
    raise ValueError("broken")


@task(max_attempts=1)
async def afail(*args: Any, **kwargs: Any) -> None:
    del args, kwargs
    raise ValueError("broken")


@task(headers={"X-Api-Key": MARK}, url=f"/hook?token={MARK}")
def tell_partner(*args: Any, **kwargs: Any) -> None:
    """A task whose declaration has secrets."""
    del args, kwargs


@task(cancellable=True, max_attempts=2)
def begin(*args: Any, **kwargs: Any) -> None:
    """A call that is cancelled while it runs, and then fails."""
    del args, kwargs
    raise ValueError("broken")


@task(max_attempts=1)
def log_in(password: str, api_key: list[str]) -> None:
    del password, api_key
    raise ValueError("broken")


@task
def again(*args: Any, **kwargs: Any) -> None:
    del args, kwargs
    if current().attempt == 1:  # type: ignore[union-attr]
        raise Retry(delay=3)


@task(keep_result=timedelta(days=1))
def give_kept(*args: Any, **kwargs: Any) -> Any:
    return {"given": args[0]}


@task(keep_result=timedelta(days=1), max_attempts=1)
def gather(values: Any, *args: Any) -> Any:
    del args
    return values


@task
def note_failure(failure: Any, *args: Any) -> None:
    del failure, args


@task(unique=True)
def alone(*args: Any, **kwargs: Any) -> None:
    del args, kwargs


@task(max_attempts=2)
def visit(row: Any, *args: Any, **kwargs: Any) -> None:
    del args, kwargs
    if row.name == "b":
        raise ValueError("broken")


@task(max_attempts=2)
def finish(*args: Any, **kwargs: Any) -> None:
    del args, kwargs
    raise ValueError("broken")


@task(max_attempts=1)
def look(item: Any, *args: Any, **kwargs: Any) -> None:
    del item, args, kwargs
    raise ValueError("broken")


@library_task(backend="kept")
def give(*args: Any, **kwargs: Any) -> Any:
    return {"given": args[0]}


@library_task(backend="kept")
def give_nothing(*args: Any, **kwargs: Any) -> Any:
    del args, kwargs
    raise ValueError("broken")
