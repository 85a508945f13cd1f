"""The store in a relational database, through the models of this app."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from django.db import InterfaceError, OperationalError, transaction
from django.db.models.functions import Now

from cloudtask.conf import check_backend_options
from cloudtask.exceptions import EnqueueUnavailable, PayloadLost
from cloudtask.stores import AlreadyDone, FailedCall
from cloudtask.stores.database_runs import DatabaseRuns

if TYPE_CHECKING:
    from cloudtask.models import FailedTask

CHUNK = 512 * 1024  # bytes a row: well under any server's packet limit


class DatabaseStore(DatabaseRuns):
    """Keeps state in the tables of this app; option ALIAS, default "default"."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        check_backend_options("STORE", options, {"ALIAS"})
        self.alias = str(options.get("ALIAS", "default"))

    @contextmanager
    def reachable(self, what: str) -> Iterator[None]:
        try:
            with transaction.atomic(using=self.alias):
                yield
        except (OperationalError, InterfaceError) as error:
            raise EnqueueUnavailable(
                f"{what} in the database {self.alias!r} failed: {error}"
            ) from error

    def save_payload(self, key: str, data: bytes) -> None:
        from cloudtask.models import Payload, PayloadChunk

        with self.reachable(f"Saving payload {key}"):
            payload, made = Payload.objects.using(self.alias).update_or_create(
                key=key, defaults={"size": len(data), "is_done": False}
            )
            if not made:
                payload.chunks.using(self.alias).all().delete()
            for index, start in enumerate(range(0, len(data), CHUNK)):
                PayloadChunk.objects.using(self.alias).create(
                    payload=payload, index=index, data=data[start : start + CHUNK]
                )

    def load_payload(self, key: str) -> bytes:
        from cloudtask.models import Payload, PayloadChunk

        with self.reachable(f"Loading payload {key}"):
            payload = Payload.objects.using(self.alias).filter(key=key).first()
            if payload is None:
                raise PayloadLost(f"The payload {key!r} is not in the store.")
            if payload.is_done:
                raise AlreadyDone(key)
            chunks = PayloadChunk.objects.using(self.alias).filter(payload=payload)
            rows = chunks.order_by("index").values_list("data", flat=True)
            data = b"".join(bytes(row) for row in rows)
        if len(data) != payload.size:
            raise PayloadLost(
                f"The payload {key!r} is damaged: {len(data):,} bytes of "
                f"{payload.size:,} are left."
            )
        return data

    def finish_payload(self, key: str) -> None:
        from cloudtask.models import Payload, PayloadChunk

        with self.reachable(f"Finishing payload {key}"):
            Payload.objects.using(self.alias).filter(key=key).update(
                is_done=True, saved_at=Now()
            )
            PayloadChunk.objects.using(self.alias).filter(payload_id=key).delete()

    def delete_payload(self, key: str) -> None:
        from cloudtask.models import Payload

        with self.reachable(f"Deleting payload {key}"):
            Payload.objects.using(self.alias).filter(key=key).delete()

    def prune_payloads(self, older_than: timedelta, limit: int) -> int:
        from cloudtask.models import Payload

        old = Payload.objects.using(self.alias).filter(saved_at__lt=Now() - older_than)
        with self.reachable("Pruning payloads"):
            keys = list(old.values_list("key", flat=True)[:limit])
            Payload.objects.using(self.alias).filter(key__in=keys).delete()
        return len(keys)

    def save_failed(self, failed: FailedCall) -> None:
        from cloudtask.models import FailedTask

        values = {f: getattr(failed, f) for f in _KEPT}
        with self.reachable(f"Keeping failed task {failed.key}"):
            FailedTask.objects.using(self.alias).update_or_create(
                key=failed.key, defaults={**values, "failed_at": Now()}
            )

    def load_failed(self, key: str) -> FailedCall | None:
        from cloudtask.models import FailedTask

        with self.reachable(f"Loading failed task {key}"):
            row = FailedTask.objects.using(self.alias).filter(key=key).first()
        return _failed_call(row) if row else None

    def list_failed(self, *, task: str | None, limit: int) -> list[FailedCall]:
        from cloudtask.models import FailedTask

        rows = FailedTask.objects.using(self.alias).order_by("-failed_at", "key")
        if task is not None:
            rows = rows.filter(task=task)
        with self.reachable("Listing failed tasks"):
            return [_failed_call(row) for row in rows[:limit]]

    def delete_failed(self, key: str) -> bool:
        from cloudtask.models import FailedTask

        with self.reachable(f"Deleting failed task {key}"):
            return bool(
                FailedTask.objects.using(self.alias).filter(key=key).delete()[0]
            )

    def old_failed(self, older_than: timedelta, limit: int) -> list[str]:
        from cloudtask.models import FailedTask

        old = FailedTask.objects.using(self.alias).filter(
            failed_at__lt=Now() - older_than
        )
        with self.reachable("Listing old failed tasks"):
            return list(old.values_list("key", flat=True)[:limit])


_KEPT = (
    "task",
    "queue",
    "name",
    "envelope",
    "arguments",
    "error",
    "traceback",
    "attempts",
    "enqueued_at",
)


def _failed_call(row: FailedTask) -> FailedCall:
    values = {f: getattr(row, f) for f in _KEPT}
    values["envelope"] = bytes(row.envelope)
    return FailedCall(key=row.key, failed_at=row.failed_at, **values)
