"""The tasks of the shop that the documentation's examples are about."""

from __future__ import annotations

from cloudtask import current, task


@task
def charge(order_id: int) -> None:
    if current().attempt == 1:
        raise ConnectionError("The bank did not answer.")


@task
def send_reports() -> None:
    """The nightly work of the shop."""
