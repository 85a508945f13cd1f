"""Leases in Datastore, by the clocks of the processes that take and want them.

Datastore has no time that a condition could use. Clocks on Google Cloud differ by
milliseconds; SKEW is what the store allows for. A clock that is further ahead ends
leases early, one that is behind ends them late: either way the fence decides who may
write, so rows may be repeated but none is lost and no progress overwritten.
"""

from __future__ import annotations

from datetime import datetime, timedelta

SKEW = timedelta(seconds=2)


def is_live(lease_until: datetime | None, now: datetime) -> bool:
    """Whether some clock may still be within the lease."""
    return lease_until is not None and lease_until + SKEW >= now
