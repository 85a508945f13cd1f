"""The codec costs nothing that it does not need."""

import subprocess
import sys

from cloudtask.codec import packing, tags

SCRIPT = """
import sys
from cloudtask import codec
codec.loads_call(codec.dumps_call((1, {2: (3,)}), {"a": 1.5}))
found = [name for name in sys.modules
         if name.startswith(("google", "grpc", "django.db.models", "cloudtask.models"))]
print(found)
"""


def test_plain_calls_load_neither_models_nor_google():
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_the_tags_of_djangos_kinds_are_all_listed():
    before = set(packing.decoders)
    packing.load_django_kinds()
    listed = tags.OF_DJANGO - {tags.NODE, tags.MET}  # those two stand in a graph only
    assert listed <= set(packing.decoders)
    assert not (set(packing.decoders) - before) - listed
