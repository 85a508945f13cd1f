"""An issuer of OIDC tokens: its keys, its certificates over HTTP, and how often they
were asked for."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa


def encoded(data: bytes | dict[str, Any]) -> str:
    raw = data if isinstance(data, bytes) else json.dumps(data).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


@lru_cache
def private_key(number: int) -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65_537, key_size=2048)


def public_pem(number: int) -> str:
    return (
        private_key(number)
        .public_key()
        .public_bytes(
            serialization.Encoding.PEM,
            serialization.PublicFormat.SubjectPublicKeyInfo,
        )
        .decode()
    )


def token(claims: dict[str, Any], *, key: int = 1, **header: Any) -> str:
    """An RS256 token signed with key `key`, which is named key-1, key-2 and so on."""
    head = {"alg": "RS256", "typ": "JWT", "kid": f"key-{key}", **header}
    signed = f"{encoded(head)}.{encoded(claims)}"
    signature = private_key(key).sign(
        signed.encode(), padding.PKCS1v15(), hashes.SHA256()
    )
    return f"{signed}.{encoded(signature)}"


def unsigned_token(claims: dict[str, Any]) -> str:
    return f"{encoded({'alg': 'none', 'kid': 'key-1'})}.{encoded(claims)}."


def confused_token(claims: dict[str, Any]) -> str:
    """Signed by HMAC with the public key as its secret."""
    signed = f"{encoded({'alg': 'HS256', 'kid': 'key-1'})}.{encoded(claims)}"
    mac = hmac.new(public_pem(1).encode(), signed.encode(), hashlib.sha256).digest()
    return f"{signed}.{encoded(mac)}"


class Issuer:
    """Serves the certificates of `keys`; `requests` are the paths that were asked."""

    def __init__(self) -> None:
        self.keys = [1]
        self.status = 200
        self.cache_control = "public, max-age=3600"
        self.requests: list[str] = []
        self.url = ""

    def claims(self, **changes: Any) -> dict[str, Any]:
        now = int(time.time())
        claims = {
            "iss": self.url,
            "aud": "https://app.example",
            "email": "tasks@p.iam.gserviceaccount.com",
            "email_verified": True,
            "iat": now - 5,
            "exp": now + 3600,
            **changes,
        }
        return {name: value for name, value in claims.items() if value is not None}

    def token(self, **changes: Any) -> str:
        return token(self.claims(**changes))

    def certificates(self) -> bytes:
        return json.dumps({f"key-{n}": public_pem(n) for n in self.keys}).encode()


@contextmanager
def issuing() -> Iterator[Issuer]:
    issuer = Issuer()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            issuer.requests.append(self.path)
            body = issuer.certificates()
            self.send_response(issuer.status)
            self.send_header("Cache-Control", issuer.cache_control)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    issuer.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield issuer
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
