"""A small Google Cloud Datastore server for tests.

The real client library talks to it. What it lacks it refuses with UNIMPLEMENTED:
GQL, property masks and transforms, distinct_on, reads at a time, explain.
"""

from tests.support.datastore.limits import Limits
from tests.support.datastore.running import running_datastore
from tests.support.datastore.server import DatastoreServer

__all__ = ["DatastoreServer", "Limits", "running_datastore"]
