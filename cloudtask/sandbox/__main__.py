"""Runs a command of this app as `manage.py` does, for a process that starts it.

If the project has not installed the app, the status says so: Django would only say that
it does not know the command.
"""

from __future__ import annotations

import sys

import django
from django.apps import apps
from django.core.management import execute_from_command_line

from cloudtask.sandbox.process import APP_MISSING

if __name__ == "__main__":
    django.setup()
    if not apps.is_installed("cloudtask"):
        sys.exit(APP_MISSING)
    execute_from_command_line(["manage.py", *sys.argv[1:]])
