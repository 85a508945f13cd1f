from __future__ import annotations

import argparse
import os
import sys

import django

from tests import golden


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.golden")
    parser.add_argument("--write", action="store_true", help="rewrite names.txt")
    options = parser.parse_args()
    os.environ["DJANGO_SETTINGS_MODULE"] = "tests.settings"
    django.setup()
    from cloudtask import registry

    # As a worker knows them, before the imports below bring in the rest.
    tasks = registry.tasks()
    from tests.golden.names import collected

    text = golden.written(collected(tasks))
    if options.write:
        golden.FILE.write_text(text, encoding="utf-8")
    else:
        sys.stdout.write(text)


if __name__ == "__main__":
    main()
