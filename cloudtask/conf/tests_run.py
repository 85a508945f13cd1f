"""Tells whether tests run, from what Django sets up for them."""

from __future__ import annotations

import sys

from django.core import mail


def in_tests() -> bool:
    """Whether Django's test environment is set up.

    `mail.outbox` alone tells nothing: the locmem backend makes it in production too.
    """
    utils = sys.modules.get("django.test.utils")
    is_set_up = utils is not None and hasattr(utils._TestState, "saved_data")
    return is_set_up and hasattr(mail, "outbox")
