"""A process that relays the outbox, and prints what it sent and its spans.

The test gives the names of the databases as JSON, by alias.
"""

from __future__ import annotations

import json
import os
import sys
from base64 import b64encode

import django
from django.apps import apps
from django.conf import settings
from django.db import connections

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.settings")
if not apps.ready:
    django.setup()

from cloudtask.sending.relay import relay
from cloudtask.transports import memory
from tests.carriers import tracing


def main(databases: dict[str, str]) -> None:
    settings.CLOUDTASK = {
        "CARRIERS": ["tests.carriers.tracing.linked"],
        "TRANSPORT": {"BACKEND": "cloudtask.transports.memory.MemoryTransport"},
        "TARGET": {"BACKEND": "cloudtask.targets.AppEngineTarget"},
    }
    for alias, name in databases.items():
        connections.settings[alias]["NAME"] = name
    relay("default")
    bodies = []
    while (entry := memory.queue().pop()) is not None:
        bodies.append(b64encode(entry.body).decode())
    spans = [json.loads(one.to_json()) for one in tracing.exporter.get_finished_spans()]
    print(json.dumps({"bodies": bodies, "spans": spans}))


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
