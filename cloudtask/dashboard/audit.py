"""Records what people do in the dashboard: in the admin's log, a signal and a log."""

from __future__ import annotations

import logging
from typing import Any

from django.apps import apps
from django.db import models, transaction

from cloudtask import signals

logger = logging.getLogger("cloudtask.audit")


def record(user: Any, verb: str, thing: models.Model, text: str) -> None:
    """Record that `user` has done `text` to `thing`. Never raises: it is done."""
    logger.info("%s: %s: %s: %s", user.get_username(), verb, thing, text)
    signals.dashboard_action.send_robust(
        sender=verb, user=user, object=thing, text=text
    )
    try:
        _log_in_admin(user, thing, text)
    except Exception:
        logger.exception("The admin's log has no entry of this action.")


def _log_in_admin(user: Any, thing: models.Model, text: str) -> None:
    if not apps.is_installed("django.contrib.admin"):
        return
    from django.contrib.admin.models import CHANGE, LogEntry

    with transaction.atomic(using=LogEntry.objects.db):
        LogEntry.objects.log_actions(user.pk, [thing], CHANGE, text, single_object=True)


def history(model: type[models.Model], key: str, limit: int = 10) -> list[Any]:
    """The latest entries about a thing, newest first; none without the admin."""
    if not apps.is_installed("django.contrib.admin"):
        return []
    from django.contrib.admin.models import LogEntry
    from django.contrib.contenttypes.models import ContentType

    kind = ContentType.objects.get_for_model(model)
    entries = LogEntry.objects.filter(content_type=kind, object_id=key)
    return list(entries.select_related("user").order_by("-action_time")[:limit])
