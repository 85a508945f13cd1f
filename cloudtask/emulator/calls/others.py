"""Answers to the calls that have no effect here, so that a client can go on.

Permissions are not checked and nothing is encrypted: IAM policies and encryption keys
are accepted and not kept.
"""

from __future__ import annotations

from google.cloud.location import locations_pb2  # type: ignore[import-untyped]
from google.iam.v1 import (  # type: ignore[import-untyped]
    iam_policy_pb2,
    policy_pb2,
)

from cloudtask.emulator.calls.state import State
from cloudtask.emulator.protocol import Message, errors, names, v2


def get_iam_policy(state: State, request: Message) -> Message:
    """An empty policy."""
    state.queue(request.resource)
    return policy_pb2.Policy(etag=b"ACAB")


def set_iam_policy(state: State, request: Message) -> Message:
    """The policy of the request."""
    state.queue(request.resource)
    return request.policy


def test_iam_permissions(state: State, request: Message) -> Message:
    """All permissions that are asked for."""
    state.queue(request.resource)
    return iam_policy_pb2.TestIamPermissionsResponse(permissions=request.permissions)


def get_cmek_config(state: State, request: Message) -> Message:
    """A configuration without a key."""
    return v2.CmekConfig(name=_cmek_name(request.name))


def update_cmek_config(state: State, request: Message) -> Message:
    """The configuration of the request."""
    config = request.cmek_config
    return v2.CmekConfig(name=_cmek_name(config.name), kms_key=config.kms_key)


def list_locations(state: State, request: Message) -> Message:
    """The locations of the project in which there are queues."""
    prefix = f"{request.name}/locations/"
    found = {name.split("/")[3] for name in state.queues if name.startswith(prefix)}
    return locations_pb2.ListLocationsResponse(
        locations=[_location(request.name, each) for each in sorted(found)]
    )


def get_location(state: State, request: Message) -> Message:
    project, location = names.parse_location(request.name)
    state.check_project(project)
    return _location(f"projects/{project}", location)


def _cmek_name(name: str) -> str:
    location, _, last = name.rpartition("/")
    names.parse_location(location)
    if last.lower() != "cmekconfig":
        raise errors.invalid('CmekConfig.name must end in "cmekConfig".')
    return f"{location}/cmekConfig"


def _location(project: str, location: str) -> Message:
    return locations_pb2.Location(
        name=f"{project}/locations/{location}",
        location_id=location,
        labels={"cloud.googleapis.com/region": location},
    )
