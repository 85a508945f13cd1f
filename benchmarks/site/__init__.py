"""The Django project that the benchmarks with real processes share.

The caller and the workers of every peer load it, so that all of them do the same work
in the same Django. Environment variables choose what differs: see `settings`.
"""

CHUNK = 500  # rows that Celery changes in one call, and cloudtask in one page
