"""A range of keys. The database does all comparing and ordering: Python's idea of the
order of strings or UUIDs may be another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from django.db.models import QuerySet


@dataclass(frozen=True, slots=True)
class Bounds:
    """The keys above `low`, up to and with `high`; None is open."""

    low: Any = None
    high: Any = None

    def of(self, queryset: QuerySet[Any]) -> QuerySet[Any]:
        """The rows of `queryset` within, by key."""
        conditions = {}
        # 0 and "" are keys like any other.
        if self.low is not None:
            conditions["pk__gt"] = self.low
        if self.high is not None:
            conditions["pk__lte"] = self.high
        return queryset.filter(**conditions).order_by("pk")
