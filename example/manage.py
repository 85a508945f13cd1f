#!/usr/bin/env python
import os
import sys
from contextlib import nullcontext

from cloudtask import sandbox

if __name__ == "__main__":
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "atlas.settings")
    from django.core.management import execute_from_command_line

    # A local Cloud Tasks beside the development server.
    serves = sys.argv[1:2] == ["runserver"]
    with sandbox.emulator() if serves else nullcontext():
        execute_from_command_line(sys.argv)
