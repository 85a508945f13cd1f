"""The Django app: it imports the tasks of the library and of every installed app."""

from __future__ import annotations

import traceback
from collections.abc import Collection
from importlib import import_module
from importlib.util import find_spec

from django.apps import AppConfig, apps
from django.utils.module_loading import module_has_submodule

from cloudtask import conf
from cloudtask.discretion import printable
from cloudtask.exceptions import ConfigurationError
from cloudtask.options import nearest


class CloudTaskConfig(AppConfig):
    name = "cloudtask"
    verbose_name = "Cloud Tasks"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        # For what they register: the system checks, and the tasks of the library,
        # whose names tell no module to import.
        from cloudtask import checks, deferred, doctor  # noqa: F401

        # `django.tasks` registers its checks when it is imported. Workers find the
        # tasks that are declared with it only then.
        if find_spec("django.tasks") or apps.is_installed("django_tasks"):
            from cloudtask import backend  # noqa: F401

        discover(conf.undiscovered())


def discover(left_out: Collection[str]) -> None:
    """Import `tasks.py` of every installed app but those whose names are `left_out`.

    Raises ConfigurationError, which names the app and the cause, when one can't be
    imported, and for a name in `left_out` that is no app.
    """
    installed = {config.name: config for config in apps.get_app_configs()}
    for name in left_out:
        if name not in installed:
            raise ConfigurationError(
                f"CLOUDTASK['DISCOVER'] names {name!r}, which is not an installed app; "
                f"{nearest(name, installed)}"
            )
    for name, config in installed.items():
        if name not in left_out and module_has_submodule(config.module, "tasks"):
            _import_tasks(name)


def _import_tasks(app: str) -> None:
    try:
        import_module(f"{app}.tasks")
    except ImportError as error:
        # The place says more than a traceback that is mostly about importing.
        raise ConfigurationError(_refusal(app, f"{error} ({_place(error)})")) from None
    except (Exception, SystemExit) as error:
        *_, cause = traceback.format_exception_only(error)
        if isinstance(error, SyntaxError):
            cause = f"{type(error).__name__}: {error}"  # with file and line
        raise ConfigurationError(_refusal(app, printable(cause.strip()))) from error


def _refusal(app: str, cause: str) -> str:
    return (
        f"The tasks of the app {app!r} can't be imported: {cause}. Mend that, or, if "
        f"{app}.tasks has no tasks of cloudtask or django.tasks, leave it alone with "
        f"CLOUDTASK['DISCOVER'] = [{app!r}]."
    )


def _place(error: ImportError) -> str:
    """File and line of the import that failed."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [f for f in frames if "importlib" not in f.filename] or frames
    return f"{own[-1].filename}, line {own[-1].lineno}"
