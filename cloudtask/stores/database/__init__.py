"""Keeps the store in a relational database, with the models of this app."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from django.db import transaction

from cloudtask.clock import database_now as now
from cloudtask.conf import check_backend_options
from cloudtask.exceptions import PayloadLost
from cloudtask.stores import AlreadyDone, FailedCall, Store
from cloudtask.stores.database.iterations import DatabaseIterations
from cloudtask.stores.database.results import DatabaseResults
from cloudtask.stores.transactions import apart, delete_by_key, translated

if TYPE_CHECKING:
    from cloudtask.models import FailedTask

CHUNK = 512 * 1024  # bytes a row: well under any server's packet limit


class DatabaseStore(DatabaseIterations, DatabaseResults, Store):
    """Keeps state in the tables of this app; option ALIAS, default "default"."""

    database: str

    def __init__(self, options: Mapping[str, Any]) -> None:
        check_backend_options("STORE", options, {"ALIAS"})
        self.database = str(options.get("ALIAS", "default"))

    @contextmanager
    def writing(self, what: str) -> Iterator[None]:
        with translated(what, self.database), transaction.atomic(using=self.database):
            yield

    def save_payload(self, key: str, data: bytes, *, joins: str | None = None) -> None:
        what = f"Saving payload {key}"
        with translated(what, self.database):
            if joins == self.database:
                with transaction.atomic(using=self.database):
                    self._save(key, data)
            else:
                with apart(self.database, what):
                    self._save(key, data)

    def _save(self, key: str, data: bytes) -> None:
        from cloudtask.models import Payload, PayloadChunk

        Payload.objects.using(self.database).filter(key=key).delete()
        payload = Payload.objects.using(self.database).create(
            key=key, size=len(data), saved_at=now()
        )
        for index, start in enumerate(range(0, len(data), CHUNK)):
            PayloadChunk.objects.using(self.database).create(
                payload=payload, index=index, data=data[start : start + CHUNK]
            )

    def load_payload(self, key: str) -> bytes:
        from cloudtask.models import Payload, PayloadChunk

        payloads = Payload.objects.using(self.database).filter(key=key)
        chunks = PayloadChunk.objects.using(self.database).filter(payload_id=key)
        with self.writing(f"Loading payload {key}"):
            rows = chunks.order_by("index").values_list("data", flat=True)
            data = b"".join(bytes(row) for row in rows)
            # Read last: the task may succeed elsewhere while the chunks are read.
            payload = payloads.first()
        if payload is None:
            raise PayloadLost(f"The payload {key!r} is not in the store.")
        if payload.is_done:
            raise AlreadyDone(key)
        if len(data) != payload.size:
            raise PayloadLost(
                f"The payload {key!r} is damaged: {len(data):,} bytes of "
                f"{payload.size:,} are left."
            )
        return data

    def finish_payload(self, key: str) -> None:
        from cloudtask.models import Payload, PayloadChunk

        with self.writing(f"Finishing payload {key}"):
            Payload.objects.using(self.database).filter(key=key).update(
                is_done=True, saved_at=now()
            )
            PayloadChunk.objects.using(self.database).filter(payload_id=key).delete()

    def touch_payload(self, key: str) -> None:
        from cloudtask.models import Payload

        with self.writing(f"Keeping payload {key}"):
            Payload.objects.using(self.database).filter(key=key).update(saved_at=now())

    def delete_payload(self, key: str) -> None:
        from cloudtask.models import Payload

        with self.writing(f"Deleting payload {key}"):
            Payload.objects.using(self.database).filter(key=key).delete()

    def prune_payloads(self, older_than: timedelta, limit: int) -> int:
        from cloudtask.models import Payload

        old = Payload.objects.using(self.database).filter(
            saved_at__lt=now() - older_than
        )
        with self.writing("Pruning payloads"):
            keys = list(old.values_list("key", flat=True)[:limit])
            return delete_by_key(Payload.objects.using(self.database), keys)

    def save_failed(self, failed: FailedCall) -> None:
        from cloudtask.models import FailedTask

        values = {f: getattr(failed, f) for f in (*_KEPT, "envelope")}
        with self.writing(f"Keeping failed task {failed.key}"):
            FailedTask.objects.using(self.database).update_or_create(
                key=failed.key, defaults={**values, "failed_at": now()}
            )

    def load_failed(self, key: str) -> FailedCall | None:
        from cloudtask.models import FailedTask

        with self.writing(f"Loading failed task {key}"):
            row = FailedTask.objects.using(self.database).filter(key=key).first()
        return _failed_call(row, bytes(row.envelope)) if row else None

    def list_failed(self, *, task: str | None, limit: int) -> list[FailedCall]:
        from cloudtask.models import FailedTask

        # An envelope may be as large as a task, and no list needs them.
        rows = FailedTask.objects.using(self.database).defer("envelope")
        rows = rows.order_by("-failed_at", "key")
        if task is not None:
            rows = rows.filter(task=task)
        with self.writing("Listing failed tasks"):
            return [_failed_call(row, b"") for row in rows[:limit]]

    def delete_failed(self, key: str) -> bool:
        from cloudtask.models import FailedTask

        with self.writing(f"Deleting failed task {key}"):
            return bool(
                FailedTask.objects.using(self.database).filter(key=key).delete()[0]
            )

    def old_failed(self, older_than: timedelta, limit: int) -> list[str]:
        from cloudtask.models import FailedTask

        old = FailedTask.objects.using(self.database).filter(
            failed_at__lt=now() - older_than
        )
        with self.writing("Listing old failed tasks"):
            return list(old.values_list("key", flat=True)[:limit])

    def note_start(self, key: str) -> int:
        from cloudtask.models import LateStart

        rows = LateStart.objects.using(self.database)
        with self.writing(f"Noting a start of {key}"):
            late, _ = rows.select_for_update().get_or_create(key=key)
            late.starts += 1
            rows.filter(key=key).update(starts=late.starts, noted_at=now())
            return late.starts

    def prune_starts(self, older_than: timedelta, limit: int) -> int:
        from cloudtask.models import LateStart

        rows = LateStart.objects.using(self.database)
        with self.writing("Pruning late starts"):
            old = rows.filter(noted_at__lt=now() - older_than)
            keys = list(old.values_list("key", flat=True)[:limit])
            return delete_by_key(rows, keys)


_KEPT = (
    "task",
    "queue",
    "name",
    "arguments",
    "error",
    "traceback",
    "attempts",
    "enqueued_at",
)


def _failed_call(row: FailedTask, envelope: bytes) -> FailedCall:
    values = {f: getattr(row, f) for f in _KEPT}
    return FailedCall(key=row.key, envelope=envelope, failed_at=row.failed_at, **values)
