"""Keeps the store in a relational database, with the models of this app."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from django.db import transaction

from cloudtask.clock import database_now as now
from cloudtask.conf import check_backend_options
from cloudtask.exceptions import PayloadLost
from cloudtask.stores import AlreadyDone, Store, Upkeep
from cloudtask.stores.database.failed import DatabaseFailed
from cloudtask.stores.database.fitting import converted, fetched, mend, unreadable_in
from cloudtask.stores.database.groups import DatabaseGroups
from cloudtask.stores.database.iterations import DatabaseIterations
from cloudtask.stores.database.marks import DatabaseMarks
from cloudtask.stores.database.records import aware
from cloudtask.stores.database.results import DatabaseResults
from cloudtask.stores.database.schedules import DatabaseSchedules
from cloudtask.stores.transactions import (
    apart,
    delete_by_key,
    translated,
    undisturbed,
)

CHUNK = 512 * 1024  # bytes a row: well under any server's packet limit


class DatabaseStore(
    DatabaseIterations,
    DatabaseFailed,
    DatabaseResults,
    DatabaseGroups,
    DatabaseMarks,
    DatabaseSchedules,
    Store,
):
    """Keeps state in the tables of this app; option ALIAS, default "default"."""

    database: str

    def __init__(self, options: Mapping[str, Any]) -> None:
        check_backend_options("STORE", options, {"ALIAS"})
        self.database = str(options.get("ALIAS", "default"))

    def save_payload(self, key: str, data: bytes, *, joins: str | None = None) -> None:
        what = f"Saving payload {key}"
        with translated(what, self.database):
            if joins == self.database:
                with transaction.atomic(using=self.database):
                    self._save(key, data)
            else:
                undisturbed(
                    lambda: self._save_apart(what, key, data),
                    self.database,
                    is_ours=True,
                )

    def _save_apart(self, what: str, key: str, data: bytes) -> None:
        with translated(what, self.database), apart(self.database, what):
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
            parts = converted(lambda: list[Any](rows), list[Any])
            # Read last: the task may succeed elsewhere while the chunks are read.
            found = fetched(payloads)
        if not found:
            raise PayloadLost(f"The payload {key!r} is not in the store.")
        [payload] = found
        if why := mend(payload):
            raise PayloadLost(why)
        if payload.is_done:
            raise AlreadyDone(key)
        data = b"".join(part for part in parts if isinstance(part, bytes | memoryview))
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

    def note_start(self, key: str) -> int:
        from cloudtask.models import LateStart

        rows = LateStart.objects.using(self.database)
        with self.writing(f"Noting a start of {key}"):
            late, _ = (
                rows.select_for_update().only("key", "starts").get_or_create(key=key)
            )
            mend(late)
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

    def unreadable(self, limit: int) -> list[str]:
        return unreadable_in(self.database, limit)

    def note_upkeep(self, job: str, report: str) -> None:
        from cloudtask.models import UpkeepNote

        rows = UpkeepNote.objects.using(self.database)
        values = {"ran_at": now(), "report": report}
        with self.writing(f"Noting that {job} ran"):
            if not rows.filter(job=job).update(**values):
                rows.update_or_create(job=job, defaults=values)

    def upkeep(self) -> dict[str, Upkeep]:
        from cloudtask.models import UpkeepNote

        rows = UpkeepNote.objects.using(self.database).annotate(now=now())
        with self.reading("Looking when the relay ran"):
            found = fetched(rows)
        # A note that can't be read is none: the job notes again that it ran.
        return {
            row.job: Upkeep(
                job=row.job,
                ran_at=aware(row.ran_at, row),
                age=row.now - row.ran_at,
                report=row.report,
            )
            for row in found
            if not mend(row)
        }
