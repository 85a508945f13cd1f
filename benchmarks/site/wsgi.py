"""What gunicorn serves."""

from django.core.wsgi import get_wsgi_application

application = get_wsgi_application()

# A worker of each peer has imported its tasks before it begins.
import benchmarks.peers.cloudtask_emulator  # noqa: E402, F401
