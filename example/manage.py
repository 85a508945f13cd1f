#!/usr/bin/env python
"""Run management commands; `runserver` also starts a local Cloud Tasks."""

import os
import sys

from cloudtask import sandbox

if __name__ == "__main__":
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "atlas.settings")
    from django.core.management import execute_from_command_line

    # Starts a local Cloud Tasks together with the development server.
    with sandbox.emulator():
        execute_from_command_line(sys.argv)
