"""The envelope itself; what the handler does with it is in test_views."""

from __future__ import annotations

import hmac
from dataclasses import replace

import pytest

from cloudtask import codec, conf, envelope
from cloudtask.envelope import NotAnEnvelope
from cloudtask.exceptions import BadSignature, PayloadError
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
PLACE = ("runs", "1", "c")


def test_a_message_comes_back_as_it_was() -> None:
    opened = envelope.unseal(envelope.seal(SMALL), now=NOW)
    assert replace(opened, options=SMALL.options) == SMALL
    assert opened.options.max_attempts == 3


@pytest.mark.parametrize("name", ["$", "$$", "\\u0024", "$ref"])
def test_a_header_named_as_a_tag_is_a_header(name: str) -> None:
    for headers in ({name: "task"}, {name: "x", "X-Other": "y"}):
        sealed = envelope.seal(replace(SMALL, options=Options(headers=headers)))
        assert envelope.unseal(sealed, now=NOW).options.headers == headers


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
        envelope.unseal(envelope.seal_value(b"{}\n[]", place=PLACE), now=NOW)
    with pytest.raises(BadSignature):
        envelope.unseal_value(envelope.seal(SMALL), place=PLACE)
    with pytest.raises(BadSignature):
        envelope.unseal_text(envelope.seal(SMALL).decode("latin-1"), place=PLACE)


def test_a_message_that_rests_is_not_delivered_and_one_that_travels_does_not_rest() -> (
    None
):
    resting = envelope.seal(SMALL, place=PLACE)

    assert envelope.unseal_resting(resting, place=PLACE).key == SMALL.key
    with pytest.raises(NotAnEnvelope):
        envelope.unseal(resting, now=NOW)
    for wrong in (envelope.seal(SMALL), envelope.seal(SMALL, place=("runs", "2"))):
        with pytest.raises(BadSignature, match="runs / 1 / c is refused"):
            envelope.unseal_resting(wrong, place=PLACE)
    with pytest.raises(BadSignature):
        envelope.unseal_value(resting, place=PLACE)


@pytest.mark.parametrize("data", [b"", b"data", b"\n1:a", b"x" * 5000])
def test_a_value_is_opened_in_its_place(data: bytes) -> None:
    text = data.decode()

    sealed = envelope.seal_value(data, place=PLACE)

    assert envelope.unseal_value(sealed, place=PLACE) == data
    assert (
        envelope.unseal_text(envelope.seal_text(text, place=PLACE), place=PLACE) == text
    )


@pytest.mark.parametrize(
    "other",
    [
        (),
        ("runs", "1"),
        ("runs", "1", "b"),
        ("runs", "1c"),
        ("runs", "", "1", "c"),
        ("runs1", "", "c"),
        ("runs", "1", "c", ""),
    ],
)
def test_a_value_of_another_place_is_refused(other: tuple[str, ...]) -> None:
    value = envelope.seal_value(b"data", place=PLACE)
    text = envelope.seal_text("data", place=PLACE)

    with pytest.raises(BadSignature, match="is refused"):
        envelope.unseal_value(value, place=other)
    with pytest.raises(BadSignature, match="is refused"):
        envelope.unseal_text(text, place=other)


@pytest.mark.parametrize("text", ["", "7", "ct:", "ct::7", "ct:é:7", "ct:AAAA:7", "[]"])
def test_text_without_a_seal_is_refused(text: str) -> None:
    with pytest.raises(BadSignature, match="runs / 1 / c"):
        envelope.unseal_text(text, place=PLACE)


@pytest.mark.parametrize("texts", [(None, ""), ("", None)])
def test_none_and_empty_text_are_told_apart(
    texts: tuple[str | None, str | None],
) -> None:
    text, other = texts
    sealed = envelope.seal_text(text, place=PLACE)
    forged = {"": f"{sealed}:", None: sealed[:-1]}[other]

    assert envelope.unseal_text(sealed, place=PLACE) == text
    with pytest.raises(BadSignature):
        envelope.unseal_text(forged, place=PLACE)


def test_null_is_no_sealed_text() -> None:
    with pytest.raises(BadSignature, match="runs / 1 / c is refused"):
        envelope.unseal_text(None, place=PLACE)


def test_nothing_is_sealed_for_a_place_with_nul_in_it() -> None:
    for seal in (
        lambda: envelope.seal_text("data", place=("runs\0", "1")),
        lambda: envelope.seal_value(b"data", place=("runs\0", "1")),
    ):
        with pytest.raises(BadSignature, match="NUL"):
            seal()


@pytest.mark.parametrize("text", ["\ud800", "a\0b", "ct:\ud800:7"])
def test_strange_text_is_opened_or_refused_like_any_other(text: str) -> None:
    sealed = envelope.seal_text(text, place=PLACE)

    assert envelope.unseal_text(sealed, place=PLACE) == text
    with pytest.raises(BadSignature):
        envelope.unseal_text(text, place=PLACE)


def test_values_are_signed_with_hmac_and_sha_256() -> None:
    sealed = envelope.seal(SMALL)
    secret = conf.settings().signing_secrets[0]
    key = hmac.digest(secret.encode(), b"cloudtask.envelope.v1", "sha256")
    at = envelope.HEADER_SIZE
    signed = sealed[: at - 32] + sealed[at:]

    assert sealed[at - 32 : at] == hmac.digest(key, signed, "sha256")


def test_every_altered_character_of_sealed_text_is_refused() -> None:
    sealed = envelope.seal_text("[1, 2]", place=PLACE)

    for index in range(len(sealed)):
        for new in {"A", "B", ":"} - {sealed[index]}:
            altered = sealed[:index] + new + sealed[index + 1 :]
            with pytest.raises(BadSignature):
                envelope.unseal_text(altered, place=PLACE)


def test_sealed_text_is_not_decoded_by_mistake() -> None:
    with pytest.raises(PayloadError):
        codec.loads(envelope.seal_text("7", place=PLACE).encode())
