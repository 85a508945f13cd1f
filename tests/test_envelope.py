"""The envelope itself; what the handler does with it is in test_views."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cloudtask import codec, envelope
from cloudtask.envelope import NotAnEnvelope
from cloudtask.message import Message
from cloudtask.options import Options

SMALL = Message(
    id="a" * 32,
    task="app.tasks.send",
    queue="default",
    name="a" * 32,
    payload=codec.dumps_call((1,), {}),
    created=1_800_000_000.0,
    options=Options(max_attempts=3),
)
NOW = SMALL.created


def test_a_message_comes_back_as_it_was() -> None:
    opened = envelope.unseal(envelope.seal(SMALL), now=NOW)
    assert replace(opened, options=SMALL.options) == SMALL
    assert opened.options.max_attempts == 3


def test_a_large_message_is_compressed() -> None:
    large = replace(SMALL, payload=codec.dumps_call(("x" * 50_000,), {}))
    sealed = envelope.seal(large)
    assert len(sealed) < 5_000
    assert envelope.unseal(sealed, now=NOW).payload == large.payload


def test_what_a_newer_version_adds_is_ignored() -> None:
    about = {
        "id": SMALL.id,
        "task": SMALL.task,
        "queue": SMALL.queue,
        "name": SMALL.name,
        "created": SMALL.created,
        "of_tomorrow": True,
        "options": {"also_of_tomorrow": 1},
    }
    body = codec.dumps(about) + b"\n" + SMALL.payload
    sealed = envelope._sealed(body, int(NOW) + 60, 0)
    assert envelope.unseal(sealed, now=NOW).id == SMALL.id


def test_a_sealed_value_is_no_message_and_a_message_no_value() -> None:
    with pytest.raises(NotAnEnvelope):
        envelope.unseal(envelope.seal_value(b"{}\n[]"), now=NOW)
    with pytest.raises(NotAnEnvelope):
        envelope.unseal_value(envelope.seal(SMALL), now=NOW)
    assert envelope.unseal_value(envelope.seal_value(b"data"), now=NOW) == b"data"
