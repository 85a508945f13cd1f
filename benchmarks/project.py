"""The Django project of the benchmarks: no server, no files."""

from __future__ import annotations

import logging
from importlib import import_module
from importlib.util import find_spec

import django
from django.conf import settings

STUB = {"BACKEND": "benchmarks.enqueue.StubTransport"}
MEMORY = {"BACKEND": "cloudtask.transports.memory.MemoryTransport"}

# Part of Django since 6.0; a package of its own before that.
DJANGO_TASKS = "django.tasks" if find_spec("django.tasks") else "django_tasks"


def cloudtask_settings(**changes: object) -> dict[str, object]:
    """The setting CLOUDTASK with `changes`."""
    target = {"BACKEND": "cloudtask.targets.AppEngineTarget", "ON_APP_ENGINE": True}
    return {
        "PROJECT": "p",
        "LOCATION": "l",
        "TARGET": target,
        "TRANSPORT": STUB,
        **changes,
    }


def set_up() -> None:
    backends = f"{DJANGO_TASKS}.backends"
    settings.configure(
        SECRET_KEY="of the benchmarks",
        ALLOWED_HOSTS=["*"],
        ROOT_URLCONF="benchmarks.urls",
        USE_TZ=True,
        DATABASES={
            "default": {"ENGINE": "django.db.backends.sqlite3", "NAME": ":memory:"}
        },
        INSTALLED_APPS=["cloudtask", "benchmarks"],
        DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
        CLOUDTASK=cloudtask_settings(),
        TASKS={
            "default": {"BACKEND": f"{backends}.immediate.ImmediateBackend"},
            "dummy": {"BACKEND": f"{backends}.dummy.DummyBackend"},
        },
    )
    django.setup()
    # As in production: in every library, lines at INFO and below cost extra time.
    logging.disable(logging.INFO)


def django_tasks() -> object:
    return import_module(DJANGO_TASKS)
