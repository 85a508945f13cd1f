"""The dashboard: pages for people about runs, failed tasks, the outbox and queues.

In Django's admin it is there by itself, and in another admin site after
`cloudtask.dashboard.register(site)`. Without the admin,
`path("tasks/", include("cloudtask.dashboard.urls"))` serves the same pages.
"""

from __future__ import annotations

from typing import Any

__all__ = ["register"]


def register(site: Any) -> None:
    """Add the pages to an admin site. A second call changes nothing."""
    # Here, since the admin's models need the apps to be loaded.
    from cloudtask.dashboard.admin_pages import register_in

    register_in(site)
