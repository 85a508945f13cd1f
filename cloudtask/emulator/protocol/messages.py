"""Provides the protobuf classes of the API, and converts times.

The Python client wraps them with proto-plus, which intercepts each access to a field.
The emulator uses the raw classes, which are three times as fast. Nothing describes
their fields to mypy, hence `Message`.
"""

from __future__ import annotations

from functools import cached_property
from importlib import import_module
from typing import Any, TypeAlias

from google.cloud.location import locations_pb2  # type: ignore[import-untyped]
from google.iam.v1 import iam_policy_pb2  # type: ignore[import-untyped]
from google.longrunning import operations_pb2  # type: ignore[import-untyped]

Message: TypeAlias = Any


class Version:
    """One version of the API: its protobuf classes, as attributes such as `v2.Task`.

    `AttributeError` for a class that the installed google-cloud-tasks doesn't have.
    """

    def __init__(self, name: str) -> None:
        self.name = name

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._types, name).pb()
        setattr(self, name, found)
        return found

    @cached_property
    def _types(self) -> Any:
        return import_module(f"google.cloud.tasks_{self.name}").types


v2 = Version("v2")
VERSIONS = {each.name: each for each in (v2, Version("v2beta3"), Version("v2beta2"))}


_ELSEWHERE = {
    "GetOperation": operations_pb2,
    "ListLocations": locations_pb2,
    "GetLocation": locations_pb2,
    "GetIamPolicy": iam_policy_pb2,
    "SetIamPolicy": iam_policy_pb2,
    "TestIamPermissions": iam_policy_pb2,
}


def request_class(version: Version, call: str) -> Message:
    """The class of the requests of a call; None when the version lacks the call."""
    return getattr(_ELSEWHERE.get(call, version), f"{call}Request", None)


def seconds_of(moment: Message) -> float:
    """A Timestamp or a Duration, in seconds."""
    return float(moment.seconds + moment.nanos / 1e9)


def put_time(field: Message, moment: float) -> None:
    """Write seconds into a Timestamp or a Duration, rounded to the microsecond."""
    micros = round(moment * 1e6)
    field.seconds, rest = divmod(micros, 1_000_000)
    field.nanos = rest * 1000


def has(message: Message, field: str) -> bool:
    """Whether a field is set; False where the installed client doesn't have it."""
    try:
        return bool(message.HasField(field))
    except ValueError:
        return False


def copy_of(message: Message) -> Message:
    """A message of the same class with the same fields."""
    copy = type(message)()
    copy.CopyFrom(message)
    return copy
