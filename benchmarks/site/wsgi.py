"""The application that gunicorn serves."""

from importlib import import_module

from django.conf import settings
from django.core.wsgi import get_wsgi_application

application = get_wsgi_application()

# A worker of each peer has imported its tasks before it begins.
import_module(f"benchmarks.peers.{settings.PEER}")
