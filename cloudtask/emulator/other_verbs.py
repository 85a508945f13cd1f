"""IAM policies, encryption keys and locations: answered, kept, without effect."""

from __future__ import annotations

import hashlib

import grpc

from cloudtask.emulator import errors, names
from cloudtask.emulator.protos import (
    CmekConfig,
    ListLocationsResponse,
    Location,
    Message,
    Policy,
    TestIamPermissionsResponse,
)
from cloudtask.emulator.state import State


def get_iam_policy(state: State, request: Message) -> Message:
    """The policy that was set; an empty one for a queue without."""
    queue = state.queue(request.resource)
    return state.policies.get(queue.name, Policy(etag=b"ACAB"))


def set_iam_policy(state: State, request: Message) -> Message:
    queue = state.queue(request.resource)
    policy = Policy()
    policy.CopyFrom(request.policy)
    current = state.policies.get(queue.name)
    if current is not None and policy.etag and policy.etag != current.etag:
        raise errors.ApiError(
            grpc.StatusCode.ABORTED,
            "There were concurrent policy changes. Please retry the whole "
            "read-modify-write with exponential backoff.",
        )
    policy.ClearField("etag")
    policy.etag = hashlib.sha256(policy.SerializeToString()).digest()[:8]
    state.policies[queue.name] = policy
    return policy


def test_iam_permissions(state: State, request: Message) -> Message:
    """Everything is permitted here."""
    state.queue(request.resource)
    return TestIamPermissionsResponse(permissions=request.permissions)


def get_cmek_config(state: State, request: Message) -> Message:
    location = _location_of(request.name)
    return CmekConfig(
        name=f"{location}/cmekConfig", kms_key=state.cmek_keys.get(location, "")
    )


def update_cmek_config(state: State, request: Message) -> Message:
    location = _location_of(request.cmek_config.name)
    state.cmek_keys[location] = request.cmek_config.kms_key
    return CmekConfig(
        name=f"{location}/cmekConfig", kms_key=request.cmek_config.kms_key
    )


def _location_of(name: str) -> str:
    location, _, last = name.rpartition("/")
    names.parse_location(location)
    if last.lower() != "cmekconfig":
        raise errors.invalid('CmekConfig.name must end in "cmekConfig".')
    return location


def list_locations(state: State, request: Message) -> Message:
    """The locations of the project in which there are queues."""
    prefix = f"{request.name}/locations/"
    found = {name.split("/")[3] for name in state.queues if name.startswith(prefix)}
    return ListLocationsResponse(
        locations=[_location(request.name, each) for each in sorted(found)]
    )


def get_location(state: State, request: Message) -> Message:
    project, location = names.parse_location(request.name)
    state.check_project(project)
    return _location(f"projects/{project}", location)


def _location(project: str, location: str) -> Message:
    return Location(
        name=f"{project}/locations/{location}",
        location_id=location,
        labels={"cloud.googleapis.com/region": location},
    )
