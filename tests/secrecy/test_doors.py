"""Each function through which an error leaves the library shows nothing of its own."""

from __future__ import annotations

import logging
import re
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.test import RequestFactory, override_settings

from cloudtask import codec, conf, discretion, envelope
from cloudtask.discretion import as_text, discreet, discreetly, emptied, printable
from cloudtask.exceptions import ConfigurationError
from cloudtask.targets import HttpTarget
from tests.secrecy import reporters, tasks
from tests.secrecy.journeys import KEY, MARK, Hidden
from tests.support import recording

SITE = {
    "PROJECT": "p",
    "LOCATION": "l",
    "TRANSPORT": {"BACKEND": recording.PATH},
}
TARGET = {"URL": "https://app.example", "SERVICE_ACCOUNT": "a@b", "ISSUER": "http://x"}


def _altered() -> None:
    tasks.take.defer(*Hidden((MARK,)).value)
    envelope.unseal(recording.bodies()[-1][:-1] + b"!", now=0)


def _token() -> None:
    headers = {"Authorization": f"Bearer a.{MARK}.b"}
    HttpTarget(TARGET).verify(RequestFactory().post("/", headers=headers))


DOORS: dict[str, Callable[[], Any]] = {
    "a plain call": lambda: tasks.fail(MARK, body=MARK),
    "an awaited call": lambda: tasks.fail.__call__(MARK),
    "an argument that can't travel": lambda: tasks.take.defer(MARK, object()),
    "arguments that do not fit": lambda: tasks.visit.defer(),
    "options that do not exist": lambda: tasks.take.using(headrs={"X-Key": MARK}),
    "a header of two lines": lambda: tasks.take.using(headers={"X": f"{MARK}\n"}),
    "a header that is no str": lambda: tasks.take.using(headers={"X": (MARK,)}),
    "headers of a wrong type": lambda: tasks.take.using(headers=[MARK]),
    "a url of a wrong type": lambda: tasks.take.using(url=[MARK]),
    "a strange url": lambda: tasks.take.using(url=f"https://{MARK}@x/").defer(),
    "a url elsewhere": lambda: tasks.take.using(url=f"https://x/?t={MARK}").defer(),
    "calls that are none": lambda: tasks.take.defer_many([MARK]),
    "a value": lambda: codec.dumps([MARK, object()]),
    "a payload": lambda: codec.loads(f'["{MARK}", '.encode()),
    "an altered body": _altered,
    "a token": _token,
}


@pytest.mark.parametrize("door", DOORS.values(), ids=DOORS.keys())
def test_an_error_leaves_without_what_it_was_about(door: Callable[[], Any]) -> None:
    with (
        override_settings(CLOUDTASK=SITE, SECRET_KEY=KEY),
        pytest.raises(Exception) as caught,  # noqa: PT011  of any kind
    ):
        door()
    for name, text in reporters.held(caught.value):
        assert MARK not in text, name


def test_an_iterator_raises_without_what_it_was_about() -> None:
    """It is read after the function that made it has returned."""
    source = "def read(secret):\n    yield secret\n    raise ValueError('broken')\n"
    space: dict[str, Any] = {"__name__": "cloudtask.of_a_test"}
    exec(source, space)
    items = discreetly(space["read"](Hidden(MARK).value))
    with pytest.raises(ValueError, match="broken") as caught:
        deque(items, maxlen=0)
    found = dict(reporters.held(caught.value))
    assert "cloudtask.of_a_test:3" in found
    assert not any(MARK in text for text in found.values())


def test_an_emptied_traceback_has_the_same_places() -> None:
    with (
        override_settings(CLOUDTASK={"LOCATON": 1}),
        pytest.raises(ConfigurationError) as caught,
    ):
        conf.settings()
    before = as_text(caught.value)
    assert "in settings" in before
    assert as_text(emptied(caught.value)) == before


def test_frames_of_the_project_keep_their_variables() -> None:
    @discreet
    def ours() -> None:
        visible = "visible"
        raise ValueError(len(visible))

    with pytest.raises(ValueError, match="7") as caught:
        ours()
    trace = caught.value.__traceback__
    assert trace is not None
    while trace.tb_next:
        trace = trace.tb_next
    assert trace.tb_frame.f_locals == {"visible": "visible"}


def test_records_have_texts_and_no_objects(caplog: pytest.LogCaptureFixture) -> None:
    class Shy:
        def __str__(self) -> str:
            return "shy\n"

        def __repr__(self) -> str:
            return MARK

    logging.getLogger("cloudtask").warning("%s, %d of %r", Shy(), 3, "a\x1b")
    (record,) = caplog.records
    assert MARK not in repr(record.args)
    assert "\n" not in record.getMessage()
    assert "\x1b" not in record.getMessage()


def test_the_records_of_each_logger_are_cleaned() -> None:
    package = Path(discretion.__file__).parent
    texts = [
        p.read_text() for p in package.rglob("*.py") if p.parent.name != "emulator"
    ]
    names = set(re.findall(r'getLogger\("([\w.]*cloudtask[\w.]*)"\)', "".join(texts)))
    assert "cloudtask.security" in names
    for name in names - {"cloudtask.emulator"}:
        assert discretion._cleaned in logging.getLogger(name).filters, name


def test_printable_text_is_left_as_it_is() -> None:
    assert printable("caf\u00e9 \u4f60") == "caf\u00e9 \u4f60"
    assert printable("a\n\x1b\x85\u2028\u202e") == "a\\n\\x1b\\x85\\u2028\\u202e"
