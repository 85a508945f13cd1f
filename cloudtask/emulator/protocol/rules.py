"""Reads the HTTP rules of the API: which path and method mean which call.

Google's protos give each method a rule (`google.api.http`). The generated Python client
holds the same rules for its REST transport, and they are read from there, so that a
newer client brings newer rules. `google/api/http.proto` defines their syntax.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import Any

_VARIABLE = re.compile(r"\{(?P<field>[\w.]+)(?:=(?P<pattern>[^}]*))?\}")
_PREFIX = "_Base"


@dataclass(frozen=True, slots=True)
class Rule:
    """One way to make a call over HTTP.

    The groups of `path` give the `fields`, in order. The body gives the field `body`:
    "*" for the whole request, "" for none.
    """

    call: str
    method: str
    path: re.Pattern[str]
    fields: tuple[str, ...]
    body: str


@cache
def rules_of(version: str) -> tuple[Rule, ...]:
    """The rules of "v2", "v2beta3" or "v2beta2".

    `ImportError` when the installed client is older than its table of rules.
    """
    module = import_module(
        f"google.cloud.tasks_{version}.services.cloud_tasks.transports.rest_base"
    )
    return tuple(_read(module._BaseCloudTasksRestTransport))


def _read(transport: type) -> Iterator[Rule]:
    for name in dir(transport):
        method = getattr(transport, name)
        if not name.startswith(_PREFIX) or not hasattr(method, "_get_http_options"):
            continue
        for option in method._get_http_options():
            yield _rule(name.removeprefix(_PREFIX), option)


def _rule(call: str, option: dict[str, Any]) -> Rule:
    fields, pattern, end = [], "", 0
    for variable in _VARIABLE.finditer(option["uri"]):
        fields.append(variable["field"])
        pattern += re.escape(option["uri"][end : variable.start()])
        pattern += f"({_segments(variable['pattern'] or '*')})"
        end = variable.end()
    pattern += re.escape(option["uri"][end:])
    return Rule(
        call=call,
        method=option["method"].upper(),
        path=re.compile(pattern),
        fields=tuple(fields),
        body=option.get("body", ""),
    )


def _segments(pattern: str) -> str:
    """`*` is one segment of a path, `**` is any number of them."""
    any_number = re.escape(pattern).replace(r"\*\*", ".+")
    return any_number.replace(r"\*", "[^/]+")
