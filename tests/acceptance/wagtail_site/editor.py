"""An editor of Wagtail: fills in the forms of its pages, as a browser does."""

from __future__ import annotations

import json
import uuid
from collections.abc import Mapping
from html.parser import HTMLParser
from http.cookiejar import CookieJar
from urllib.parse import urlencode
from urllib.request import HTTPCookieProcessor, Request, build_opener

File = tuple[str, bytes]


class Fields(HTMLParser):
    """The values of the fields in a page, by their names."""

    def __init__(self) -> None:
        super().__init__()
        self.found: dict[str, str] = {}
        self._area = self._select = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        name = given.get("name", "")
        if tag == "textarea":
            self._area = name
            self.found.setdefault(name, "")
        elif tag == "select":
            self._select = name
        elif tag == "option" and "selected" in given and self._select:
            self.found[self._select] = given.get("value", "")
        elif tag == "input" and name and _counts(given):
            is_box = given.get("type") in ("checkbox", "radio")
            self.found[name] = given.get("value", "on" if is_box else "")

    def handle_endtag(self, tag: str) -> None:
        if tag == "textarea":
            self._area = ""
        elif tag == "select":
            self._select = ""

    def handle_data(self, data: str) -> None:
        if self._area:
            self.found[self._area] += data.strip()


def _counts(given: Mapping[str, str]) -> bool:
    kind = given.get("type", "text")
    if kind in ("checkbox", "radio"):
        return "checked" in given
    return kind not in ("submit", "button", "file")


class Editor:
    """Someone who is logged in, with the cookies of the session."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.opener = build_opener(HTTPCookieProcessor(CookieJar()))

    def read(self, path: str) -> str:
        with self.opener.open(f"{self.url}{path}") as answer:
            return str(answer.read().decode())

    def submit(self, path: str, **given: str | File) -> tuple[str, str]:
        """Fill in the form of a page, and send it; the URL of the answer, and its text.

        Fields that are not given are sent as the page shows them.
        """
        page = Fields()
        page.feed(self.read(path))
        fields: dict[str, str] = page.found
        files = {k: v for k, v in given.items() if isinstance(v, tuple)}
        fields |= {k: v for k, v in given.items() if isinstance(v, str)}
        kind, body = _encoded(fields, files)
        headers = {"Content-Type": kind, "Referer": self.url}
        request = Request(f"{self.url}{path}", body, headers)
        with self.opener.open(request) as answer:
            return answer.url, answer.read().decode()


def _encoded(fields: Mapping[str, str], files: Mapping[str, File]) -> tuple[str, bytes]:
    if not files:
        return "application/x-www-form-urlencoded", urlencode(fields).encode()
    edge = uuid.uuid4().hex
    parts = [
        f'--{edge}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'
        for name, value in fields.items()
    ]
    body = "".join(parts).encode()
    for name, (filename, content) in files.items():
        head = (
            f"--{edge}\r\nContent-Disposition: form-data; name={json.dumps(name)}; "
            f"filename={json.dumps(filename)}\r\nContent-Type: image/png\r\n\r\n"
        )
        body += head.encode() + content + b"\r\n"
    return f"multipart/form-data; boundary={edge}", body + f"--{edge}--\r\n".encode()
