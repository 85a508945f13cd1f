"""The application that gunicorn loads; with --preload, in the master process.

The master defers a task before it forks: each worker must make a client of its own.
"""

import os

from django.core.wsgi import get_wsgi_application

application = get_wsgi_application()

if os.environ.get("ACCEPTANCE_DEFER_IN_MASTER"):
    from tests.acceptance.project.ledger import tasks

    tasks.write.defer("before the fork")
