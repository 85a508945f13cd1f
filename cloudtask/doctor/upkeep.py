"""Probes of what must run regularly: the relay, the sweeper, and cloudtask_prune."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from datetime import timedelta

from cloudtask import conf
from cloudtask.doctor.findings import (
    Finding,
    Probe,
    Wish,
    failed,
    lasting,
    ok,
    skipped,
    warning,
)
from cloudtask.exceptions import CloudTaskError
from cloudtask.sending import waiting
from cloudtask.sending.waiting import is_without_relay
from cloudtask.stores import Store, store
from cloudtask.stores.database.fitting import unreadable_in

QUIET = timedelta(minutes=5)  # for a relay by cron that runs each minute
A_DAY_LATE = timedelta(days=2)  # for a job that runs daily
RECORDS = 1_000  # of each kind that are looked at
MOST = 100  # lost steps that are counted

RUN_RELAY = (
    "Run `manage.py cloudtask_relay --loop 5`, or call the relay's URL each minute."
)
RUN_PRUNE = "Run `manage.py cloudtask_prune` daily."


def store_answers(wish: Wish) -> Iterator[Finding]:
    """The store can be read; with --send, also written."""
    found = store()
    try:
        found.upkeep()
        if wish.send:
            _write_to(found)
    except CloudTaskError as error:
        yield failed(str(error), _cure_of(found))
        return
    did = "read and written" if wish.send else "read"
    yield ok(f"{type(found).__name__} can be {did}.")


def _write_to(found: Store) -> None:
    key = f"doctor-{uuid.uuid4().hex}"
    found.save_payload(key, b"doctor")
    found.load_payload(key)
    found.delete_payload(key)


def _cure_of(found: Store) -> str:
    if type(found).__module__.startswith("cloudtask.stores.datastore"):
        return (
            "Grant roles/datastore.user to the account of this process, and look at "
            "CLOUDTASK['STORE']."
        )
    return "Run `manage.py migrate`, and look at DATABASES."


def relay(wish: Wish) -> Iterator[Finding]:
    """A relay has run lately, and nothing is due for long or parked."""
    note = store().upkeep().get("relay")
    counts = [waiting.counts(alias) for alias in waiting.aliases()]
    late = max((one.late for one in counts if one.late is not None), default=None)
    if late is not None and is_without_relay(late, note):
        yield failed(f"A message is due for {lasting(late)}: no relay runs.", RUN_RELAY)
    elif note is None:
        yield warning("No relay has ever run.", RUN_RELAY)
    elif note.age > QUIET:
        yield warning(f"No relay has run for {lasting(note.age)}.", RUN_RELAY)
    else:
        yield ok(f"A relay ran {lasting(note.age)} ago: {note.report}.")
    for one in counts:
        if one.parked:
            yield _parked(one)


def _parked(counts: waiting.OutboxCounts) -> Finding:
    [worst, *_] = waiting.parked_by_error(counts.alias, limit=1)
    since = f"{counts.oldest_parked:%Y-%m-%d %H:%M} UTC" if counts.oldest_parked else ""
    return failed(
        f"Messages are parked in {counts.alias!r}: {counts.parked:,}, since {since}. "
        f"{worst.error}",
        "Correct the cause, then run `manage.py cloudtask_outbox release --all "
        f"--database {counts.alias}`.",
    )


def prune(wish: Wish) -> Iterator[Finding]:
    """cloudtask_prune runs, so that nothing old remains."""
    note, keep = store().upkeep().get("prune"), conf.settings().keep_failed
    if store().old_failed(keep, 1):
        yield warning(
            f"Failed tasks are older than CLOUDTASK['KEEP_FAILED'], {lasting(keep)}.",
            RUN_PRUNE,
        )
    elif note is None:
        yield warning("cloudtask_prune has never run.", RUN_PRUNE)
    elif note.age > A_DAY_LATE:
        yield warning(
            f"cloudtask_prune has not run for {lasting(note.age)}.", RUN_PRUNE
        )
    else:
        yield ok(f"cloudtask_prune ran {lasting(note.age)} ago.")


def sweep(wish: Wish) -> Iterator[Finding]:
    """No iteration has lost a step that the sweeper should have made again."""
    patience = conf.settings().sweep_after
    lost = len(store().stale_runs(older_than=patience, limit=MOST))
    lost += len(store().stale_shards(older_than=patience, limit=MOST))
    note = store().upkeep().get("sweep")
    if lost:
        yield failed(
            f"Iterations have lost {lost} steps, and no sweeper has made them again.",
            "Run `manage.py cloudtask_relay`, which also sweeps.",
        )
    elif note is None:
        yield skipped("No sweeper has ever run. A relay sweeps, too.")
    else:
        yield ok(f"A sweeper ran {lasting(note.age)} ago: {note.report}.")


def records(wish: Wish) -> Iterator[Finding]:
    """All stored records, as far as they are looked at, can be read."""
    found = store()
    reasons = list(found.unreadable(RECORDS))
    for alias in waiting.aliases():
        if alias != found.database:
            reasons += unreadable_in(alias, RECORDS)
    if not reasons:
        yield ok(f"No stored record is unreadable, of {RECORDS:,} of each kind.")
        return
    yield failed(
        f"Stored records can't be read: {len(reasons):,}. {reasons[0]}",
        "Look who else writes to the tables or entities of cloudtask. Cancel or "
        "discard what pages and lists show as unreadable.",
    )


PROBES = (
    Probe(id="store", about="the store", look=store_answers),
    Probe(id="relay", about="the relay", look=relay),
    Probe(id="sweep", about="lost steps of iterations", look=sweep),
    Probe(id="records", about="stored records", look=records),
    Probe(id="prune", about="old records", look=prune),
)
