"""Reading responses, and the connections they come over."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from cloudtask.emulator.dispatch.client import (
    HttpClient,
    address_of,
    retry_after_seconds,
)
from cloudtask.emulator.dispatch.request import Outgoing
from cloudtask.emulator.dispatch.response import BadResponse, ResponseReader
from tests.support.waiting import PATIENCE

HEAD = b"HTTP/1.1 200 OK\r\n"
RESPONSES = {
    b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello": (200, True),
    b"HTTP/1.1 204 No Content\r\n\r\n": (204, True),
    b"HTTP/1.1 503 X\r\nretry-after: 7\r\nCONTENT-LENGTH: 0\r\n\r\n": (503, True),
    b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 201 C\r\nContent-Length: 0\r\n\r\n": (
        201,
        True,
    ),
    HEAD + b"Transfer-Encoding: chunked\r\n\r\n5;x=1\r\nhello\r\n0\r\nA: b\r\n\r\n": (
        200,
        True,
    ),
    HEAD + b"Transfer-Encoding: chunked\r\n\r\nA\r\n0\r\n\r\n67890\r\n0\r\n\r\n": (
        200,
        True,
    ),
    HEAD + b"Connection: close\r\nContent-Length: 2\r\n\r\nok": (200, False),
    b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok": (200, False),
    b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 0\r\n\r\n": (
        200,
        True,
    ),
}


@given(st.sampled_from(sorted(RESPONSES)), st.data())
def test_a_response_reads_the_same_however_it_is_cut(
    wire: bytes, data: st.DataObject
) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(wire)), max_size=8)))
    reader = ResponseReader()
    for start, end in zip([0, *cuts], [*cuts, len(wire)], strict=True):
        assert not reader.done or start == len(wire)
        reader.feed(wire[start:end])

    assert reader.done
    assert (reader.status, reader.keep_alive) == RESPONSES[wire]


def test_a_response_without_a_length_ends_with_the_connection() -> None:
    reader = ResponseReader()
    reader.feed(HEAD + b"\r\nsome body")
    assert not reader.done

    reader.feed_eof()

    assert reader.done
    assert not reader.keep_alive


def test_a_response_cut_off_is_not_done() -> None:
    reader = ResponseReader()
    reader.feed(HEAD + b"Content-Length: 10\r\n\r\nhalf")
    reader.feed_eof()

    assert not reader.done


def test_the_answer_to_head_has_no_body() -> None:
    reader = ResponseReader(is_head_request=True)
    reader.feed(HEAD + b"Content-Length: 10\r\n\r\n")

    assert reader.done


def test_bytes_that_nobody_asked_for_end_the_connection() -> None:
    reader = ResponseReader()
    reader.feed(HEAD + b"Content-Length: 0\r\n\r\nHTTP/1.1 200 OK\r\n")

    assert reader.done
    assert not reader.keep_alive


@pytest.mark.parametrize(
    "wire",
    [
        b"SSH-2.0-OpenSSH\r\n\r\n",
        b"HTTP/1.1 abc\r\n\r\n",
        HEAD + b"Content-Length: x\r\n\r\n",
        HEAD + b"Content-Length: -4\r\n\r\n",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"A" * 300_000,
    ],
)
def test_what_is_not_http_is_refused(wire: bytes) -> None:
    with pytest.raises(BadResponse):
        ResponseReader().feed(wire)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("120", 120.0),
        ("Thu, 01 Jan 1970 00:00:50 GMT", 40.0),
        ("Thu, 01 Jan 1970 00:00:05 GMT", 0.0),
        ("soon", None),
        ("-5", None),
    ],
)
def test_retry_after_is_seconds_or_a_date(value: str, seconds: float | None) -> None:
    assert retry_after_seconds(value, now=10.0) == seconds


def test_a_url_is_made_fit_for_the_wire() -> None:
    address = address_of("http://h:81/ä b?q=1&r=ü%20#fragment")

    assert address.path == "/%C3%A4%20b?q=1&r=%C3%BC%20"
    assert address.host_header == "h:81"


Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def serving(serve: Serve):
    """(client, URL) of a server whose connections `serve` handles."""

    async def handle(
        reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        try:
            await serve(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError):
            return
        finally:
            writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    client = HttpClient()
    try:
        yield client, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    finally:
        client.close()
        server.close()
        await server.wait_closed()


def post(url: str, deadline: float = 10.0) -> Outgoing:
    return Outgoing("POST", url, {}, b"", deadline)


async def read_head(reader: asyncio.StreamReader) -> bytes:
    return await reader.readuntil(b"\r\n\r\n")


OK = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"


def test_connections_are_kept_and_reused() -> None:
    connections = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        while True:
            await read_head(reader)
            writer.write(OK)

    async def main() -> None:
        async with serving(serve) as (client, url):
            for _ in range(20):
                assert (await client.send(post(url))).status == 200

    asyncio.run(main())
    assert connections == 1


def test_a_connection_that_the_server_closed_is_replaced() -> None:
    asked = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        await read_head(reader)
        asked += 1
        writer.write(OK)  # and closes, without having said so

    async def main() -> None:
        async with serving(serve) as (client, url):
            for _ in range(5):
                assert (await client.send(post(url))).ok

    asyncio.run(main())
    assert asked == 5


def test_silence_ends_at_the_deadline_with_no_status() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async def main() -> None:
        async with serving(serve) as (client, url):
            response = await client.send(post(url, deadline=0.05))
            assert response.status is None
            assert "0.05 s" in response.problem

    asyncio.run(main())


@pytest.mark.parametrize(
    "answer", [b"", b"HTTP/1.1 200 OK\r\nContent-Le", b"hm\r\n\r\n"]
)
def test_a_broken_answer_is_no_response(answer: bytes) -> None:
    asked = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal asked
        await read_head(reader)
        asked += 1
        writer.write(answer)

    async def main() -> None:
        async with serving(serve) as (client, url):
            response = await client.send(post(url))
            assert response.status is None
            assert response.problem

    asyncio.run(main())
    assert asked == 1


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/", "http://", "http://h:99999/"])
def test_what_cannot_be_reached_is_no_response(url: str) -> None:
    async def main() -> None:
        client = HttpClient()
        response = await client.send(post(url))
        client.close()
        assert response.status is None
        assert response.problem

    asyncio.run(main())


def test_many_slow_requests_run_side_by_side() -> None:
    at_once = most = 0
    full = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal at_once, most
        while True:
            await read_head(reader)
            at_once += 1
            most = max(most, at_once)
            if at_once == 200:
                full.set()
            await full.wait()
            at_once -= 1
            writer.write(OK)

    async def main() -> None:
        async with serving(serve) as (client, url):
            responses = await asyncio.gather(
                *(client.send(post(url)) for _ in range(200))
            )
            assert all(response.ok for response in responses)

    asyncio.run(main())
    assert most == 200


def test_fast_answers_need_few_connections() -> None:
    connections = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        while True:
            await read_head(reader)
            writer.write(OK)

    async def main() -> None:
        async with serving(serve) as (client, url):
            await asyncio.gather(*(client.send(post(url)) for _ in range(1000)))

    asyncio.run(main())
    assert connections < 200


def test_idle_connections_are_given_up() -> None:
    ended = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_head(reader)
        writer.write(OK)
        try:
            assert await reader.read() == b""
        finally:
            ended.set()

    async def main() -> None:
        async with serving(serve) as (client, url):
            assert (await client.send(post(url))).ok
            await asyncio.wait_for(ended.wait(), PATIENCE)

    asyncio.run(main())


def certificate(folder: Path) -> Path:
    """A file with a key and a certificate that says it is localhost."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False
        )
        .sign(key, hashes.SHA256())
    )
    path = folder / "localhost.pem"
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        + signed.public_bytes(serialization.Encoding.PEM)
    )
    return path


@pytest.mark.parametrize("is_trusted", [True, False])
def test_https_is_spoken_with_those_who_are_trusted(
    tmp_path: Path, is_trusted: bool
) -> None:
    path = certificate(tmp_path)
    served = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    served.load_cert_chain(path)
    trusting = ssl.create_default_context(cafile=str(path) if is_trusted else None)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await read_head(reader)
        writer.write(OK)
        await writer.drain()
        writer.close()

    async def main() -> None:
        server = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=served)
        port = server.sockets[0].getsockname()[1]
        client = HttpClient(trusting)
        response = await client.send(post(f"https://localhost:{port}/"))
        client.close()
        server.close()
        await server.wait_closed()
        assert response.status == (200 if is_trusted else None)
        assert is_trusted or "certificate" in response.problem.lower()

    asyncio.run(main())
