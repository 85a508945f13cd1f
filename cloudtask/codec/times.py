"""Dates, times, durations and their zones."""

from __future__ import annotations

import datetime as dt
from typing import Any
from zoneinfo import ZoneInfo

from cloudtask.codec.packing import Packing
from cloudtask.codec.refusals import REGISTER, Refusal
from cloudtask.codec.registry import Packer, decoders, families, packers, plain_kind

_UTC = dt.UTC


def _pack_moment(value: dt.datetime | dt.time, packing: Packing, tag: str) -> Any:
    zone, fold = value.tzinfo, value.fold
    if not fold and (zone is None or (zone is _UTC and tag == "datetime")):
        return {"$": [tag, value.isoformat()]}
    naive = value.replace(tzinfo=None, fold=0).isoformat()
    return {"$": [tag, [naive, packing.part(zone, ".tzinfo"), fold]]}


def _pack_datetime(value: dt.datetime, packing: Packing) -> Any:
    return _pack_moment(value, packing, "datetime")


def _pack_time(value: dt.time, packing: Packing) -> Any:
    return _pack_moment(value, packing, "time")


def _decode_datetime(payload: Any) -> dt.datetime:
    if type(payload) is str:
        return dt.datetime.fromisoformat(payload)
    naive, zone, fold = payload
    return dt.datetime.fromisoformat(naive).replace(tzinfo=zone, fold=fold)


def _decode_time(payload: Any) -> dt.time:
    if type(payload) is str:
        return dt.time.fromisoformat(payload)
    naive, zone, fold = payload
    return dt.time.fromisoformat(naive).replace(tzinfo=zone, fold=fold)


def _pack_timezone(value: dt.timezone, packing: Packing) -> Any:
    if value is _UTC:
        return {"$": ["timezone", []]}
    # (offset,) or (offset, name): tzname() can't tell a given name from a made one.
    offset, *name = value.__getinitargs__()  # type: ignore[attr-defined]
    return {"$": ["timezone", [*_parts(offset), *name]]}


def _decode_timezone(parts: list[Any]) -> dt.timezone:
    if not parts:
        return _UTC
    return dt.timezone(dt.timedelta(*parts[:3]), *parts[3:])


def _parts(value: dt.timedelta) -> list[int]:
    return [value.days, value.seconds, value.microseconds]


def _pack_zone(value: ZoneInfo, packing: Packing) -> Any:
    if value.key is None:
        raise Refusal(ZoneInfo, f"It was made from a file and has no key; {REGISTER}.")
    return {"$": ["zone", value.key]}


packers[dt.datetime] = _pack_datetime
packers[dt.time] = _pack_time
decoders["datetime"] = _decode_datetime
decoders["time"] = _decode_time
plain_kind(dt.date, "date", dt.date.isoformat, lambda text: dt.date.fromisoformat(text))
plain_kind(dt.timedelta, "timedelta", _parts, lambda parts: dt.timedelta(*parts))
packers[dt.timezone] = _pack_timezone
decoders["timezone"] = _decode_timezone
packers[ZoneInfo] = _pack_zone
decoders["zone"] = ZoneInfo


_FROZEN: dict[str, Packer] = {
    "FakeDatetime": _pack_datetime,
    "FakeDate": lambda value, packing: {"$": ["date", value.isoformat()]},
}


def _frozen_by_freezegun(kind: type) -> Packer | None:
    """Its stand-ins travel as what they stand in for, or tests could defer no date."""
    return _FROZEN.get(kind.__name__) if kind.__module__ == "freezegun.api" else None


families.append(_frozen_by_freezegun)
