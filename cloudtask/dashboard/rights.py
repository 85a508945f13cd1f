"""The rights of the dashboard, and who has them."""

from __future__ import annotations

from typing import Any

from cloudtask import conf

# The rights that only look. All others change something.
LOOKING = frozenset(
    {
        *("view_iteration", "view_failed", "view_failed_details", "view_outbox"),
        *("view_queue", "view_task", "view_result", "view_schedule", "view_group"),
        *("view_call", "run_doctor"),
    }
)
PAGES = (
    *("view_iteration", "view_failed", "view_outbox", "view_queue", "view_task"),
    *("view_schedule", "view_group", "view_call"),
)


def may(user: Any, right: str) -> bool:
    """Whether a user has a right, and the settings leave it in force."""
    if right not in LOOKING and conf.settings().dashboard_read_only:
        return False
    return bool(user.is_active and user.has_perm(f"cloudtask.{right}"))


def may_any(user: Any, rights: tuple[str, ...]) -> bool:
    return any(may(user, right) for right in rights)
