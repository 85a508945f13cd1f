#!/usr/bin/env python
import os
import sys

from cloudtask import sandbox

if __name__ == "__main__":
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "atlas.settings")
    from django.core.management import execute_from_command_line

    # A local Cloud Tasks beside the development server.
    with sandbox.emulator():
        execute_from_command_line(sys.argv)
