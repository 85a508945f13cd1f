"""Settings of the site that gunicorn serves to test_kill: the tests' own, with the
database of the test and the emulator that it has started."""

import json
import os

from tests.settings import *  # noqa: F403

DATABASES["default"]["NAME"] = os.environ["KILL_DATABASE"]  # noqa: F405
ALLOWED_HOSTS = ["127.0.0.1"]
CLOUDTASK = json.loads(os.environ["KILL_CLOUDTASK"])
