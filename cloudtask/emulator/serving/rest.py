"""Answers REST: the JSON of the API, by the HTTP rules of the protos.

https://cloud.google.com/tasks/docs/reference/rest
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote

import grpc
from aiohttp import web
from google.protobuf import json_format
from google.rpc import status_pb2  # type: ignore[import-untyped]

from cloudtask.emulator.calls import CALLS, answer
from cloudtask.emulator.protocol import (
    VERSIONS,
    Message,
    Rule,
    Version,
    errors,
    request_class,
    rules_of,
)
from cloudtask.emulator.protocol.errors import ApiError
from cloudtask.emulator.serving.engine import Engine
from cloudtask.emulator.serving.running import run_task

# Of google/rpc/code.proto.
_HTTP_STATUS = {
    "INVALID_ARGUMENT": 400,
    "FAILED_PRECONDITION": 400,
    "PERMISSION_DENIED": 403,
    "NOT_FOUND": 404,
    "ALREADY_EXISTS": 409,
    "ABORTED": 409,
    "UNIMPLEMENTED": 501,
    "UNAVAILABLE": 503,
}
# https://cloud.google.com/apis/docs/system-parameters
_SYSTEM_PARAMETERS = frozenset(
    {
        "$alt",
        "$.xgafv",
        "$prettyPrint",
        "access_token",
        "alt",
        "callback",
        "fields",
        "key",
        "oauth_token",
        "prettyPrint",
        "quotaUser",
        "uploadType",
        "upload_protocol",
    }
)
_MASKS = frozenset({"updateMask", "update_mask", "readMask", "read_mask"})
_HEADERS = {"Cache-Control": "private", "X-Content-Type-Options": "nosniff"}
# What google.protobuf.json_format raises for values that don't fit.
_BAD_VALUE = (
    json_format.ParseError,
    ValueError,
    TypeError,
    AttributeError,
    KeyError,
    RecursionError,
)


class Rest:
    """Answers the paths /v2/..., /v2beta3/... and /v2beta2/... for one engine."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def answer(self, request: web.Request) -> web.Response:
        try:
            message = await self._answered(request)
        except ApiError as error:
            return refusal(error)
        numbers = "enum-encoding=int" in request.query.get("$alt", "")
        shown = json_format.MessageToDict(message, use_integers_for_enums=numbers)
        return _json(200, shown)

    async def _answered(self, request: web.Request) -> Message:
        version = VERSIONS[request.match_info["version"]]
        rule, values = _match(version, request.method, request.rel_url.raw_path)
        message = request_class(version, rule.call)()
        if rule.body:
            _read_body(message, rule.body, await request.read())
        _read_query(message, request.query)
        for field, value in zip(rule.fields, values, strict=True):
            _set(message, field, value)
        if rule.call == "RunTask":
            return await run_task(self._engine.state, version, message)
        call = CALLS.get(rule.call)
        if call is None:
            raise errors.unimplemented(f"The emulator has no method {rule.call}.")
        return answer(self._engine.state, version, call, message)


def refusal(error: ApiError) -> web.Response:
    """An error in the form of Google's APIs (https://google.aip.dev/193)."""
    code = _HTTP_STATUS.get(error.code.name, 500)
    body = {"code": code, "message": error.message, "status": error.code.name}
    if error.details:
        status = status_pb2.Status()
        for detail in error.details:
            status.details.add().Pack(detail)
        body["details"] = json_format.MessageToDict(status)["details"]
    return _json(code, {"error": body})


def _json(status: int, body: Mapping[str, Any]) -> web.Response:
    text = json.dumps(body, indent=2, ensure_ascii=False) + "\n"
    return web.Response(
        status=status,
        # A refusal may quote half of a surrogate pair, which UTF-8 has no bytes for.
        body=text.encode("utf-8", "backslashreplace"),
        content_type="application/json",
        charset="utf-8",
        headers=_HEADERS,
    )


def _match(version: Version, method: str, path: str) -> tuple[Rule, list[str]]:
    try:
        rules = rules_of(version.name)
    except ImportError:
        raise errors.unimplemented(
            "The installed google-cloud-tasks has no table of HTTP rules. REST needs "
            "version 2.17 or newer: pip install --upgrade google-cloud-tasks"
        ) from None
    for rule in rules:
        match = rule.path.fullmatch(path) if rule.method == method else None
        if match is not None:
            return rule, [unquote(each) for each in match.groups()]
    raise ApiError(
        grpc.StatusCode.NOT_FOUND,
        f"{method} {path} is not a call of the API {version.name}. See "
        "https://cloud.google.com/tasks/docs/reference/rest",
    )


def _read_body(message: Message, field: str, body: bytes) -> None:
    try:
        data = json.loads(body) if body.strip() else {}
        if b"\\ud" in body.lower():
            # Half of a surrogate pair, which protobuf can't take, fails here.
            json.dumps(data, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise errors.invalid(f"Invalid JSON payload received. {error}") from None
    if not isinstance(data, dict):
        raise errors.invalid(
            "Invalid JSON payload received. The root element must be an object."
        )
    target = message if field == "*" else getattr(message, field)
    try:
        json_format.ParseDict(data, target)
    except _BAD_VALUE as error:
        raise errors.invalid(f"Invalid JSON payload received. {error}") from None


def _read_query(message: Message, query: Mapping[str, str]) -> None:
    for name, value in query.items():
        if name in _SYSTEM_PARAMETERS:
            continue
        data: Any = _mask(value) if name in _MASKS else value
        for part in reversed(name.split(".")):
            data = {part: data}
        try:
            json_format.ParseDict(data, message)
        except _BAD_VALUE as error:
            raise errors.invalid(f"Invalid query parameter {name!r}. {error}") from None


def _mask(text: str) -> str:
    """The paths of a FieldMask in camelCase; some clients send them in snake_case."""
    return re.sub(r"_([a-z])", lambda match: match[1].upper(), text)


def _set(message: Message, field: str, value: str) -> None:
    *parents, name = field.split(".")
    for parent in parents:
        message = getattr(message, parent)
    setattr(message, name, value)
