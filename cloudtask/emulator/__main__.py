"""Runs the emulator: `python -m cloudtask.emulator`, or `cloudtask-emulator`."""

import sys

try:
    from cloudtask.emulator.cli import main
except ImportError as error:
    sys.exit(
        f"{error}. Install what the emulator needs: "
        'pip install "django-cloudtask-defer[emulator]"'
    )

if __name__ == "__main__":
    sys.exit(main())
