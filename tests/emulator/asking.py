"""Plain HTTP requests to an emulator, as curl makes them."""

from __future__ import annotations

import http.client
import json
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from cloudtask.emulator import Emulator
from tests.support.waiting import PATIENCE


@dataclass(frozen=True)
class Answer:
    status: int
    text: str
    headers: http.client.HTTPMessage

    @property
    def json(self) -> Any:
        return json.loads(self.text)


def ask(
    emulator: Emulator,
    method: str,
    path: str,
    body: str | bytes | None = None,
    **headers: str,
) -> Answer:
    """The answer to one request; `Sec_Fetch_Site` means the header Sec-Fetch-Site."""
    parts = urlsplit(emulator.http_address)
    connection = http.client.HTTPConnection(
        parts.hostname, parts.port, timeout=PATIENCE
    )
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    try:
        connection.request(method, path, body, named)
        response = connection.getresponse()
        return Answer(response.status, response.read().decode(), response.headers)
    finally:
        connection.close()
