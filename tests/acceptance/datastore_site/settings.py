"""Settings of a site whose only database is Datastore, as those of djangae projects.

DATASTORE_SITE has the project, the namespace, the target and a folder as JSON.
"""

import json
import os
from datetime import timedelta
from pathlib import Path

GIVEN = json.loads(os.environ["DATASTORE_SITE"])

SECRET_KEY = "a key for the acceptance tests only"
ALLOWED_HOSTS = ["127.0.0.1"]
ROOT_URLCONF = "tests.acceptance.datastore_site.urls"
USE_TZ = True
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
INSTALLED_APPS = ["gcloudc", "cloudtask", "tests.acceptance.datastore_site"]
DATABASES = {
    "default": {
        "ENGINE": "gcloudc.db.backends.datastore",
        "PROJECT": GIVEN["PROJECT"],
        "NAMESPACE": GIVEN["NAMESPACE"],
        "INDEXES_FILE": Path(GIVEN["folder"]) / "djangaeidx.yaml",
    }
}
CLOUDTASK = {
    "PROJECT": "p",
    "LOCATION": "l",
    "TARGET": GIVEN["target"],
    "STORE": {
        "BACKEND": "cloudtask.stores.datastore.DatastoreStore",
        "PROJECT": GIVEN["PROJECT"],
        "NAMESPACE": f"{GIVEN['NAMESPACE']}-tasks",
    },
    "LEASE": timedelta(seconds=3),
}
LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "handlers": {"console": {"class": "logging.StreamHandler"}},
    "root": {"handlers": ["console"], "level": "WARNING"},
    "loggers": {"cloudtask": {"level": "INFO"}},
}
