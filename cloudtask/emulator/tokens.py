"""Makes tokens for service accounts, signed with the emulator's own key.

An OIDC token is the JWT that Google would send: RS256, issuer, audience, email. A
target verifies it with the key that the HTTP side publishes.
"""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
from collections.abc import Callable
from functools import cached_property

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

LIFETIME = 3600
"""Seconds for which a token is valid."""

_REUSED_FOR = 300.0
_DEFAULT_SCOPE = "https://www.googleapis.com/auth/cloud-platform"


def _b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _b64_number(number: int) -> str:
    return _b64(number.to_bytes((number.bit_length() + 7) // 8, "big"))


def load_key(pem: bytes) -> rsa.RSAPrivateKey:
    """The private RSA key in a PEM file; `ValueError` when there is none."""
    try:
        key = serialization.load_pem_private_key(pem, password=None)
    except (TypeError, ValueError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, rsa.RSAPrivateKey):
        raise ValueError(
            "The token key must be an RSA private key in PEM, unencrypted."
        )
    return key


class SigningKey:
    """An RSA key; made when first needed, unless an earlier run kept one."""

    def __init__(
        self,
        pem: bytes | None = None,
        *,
        on_new: Callable[[bytes], None] | None = None,
    ) -> None:
        self._pem = pem
        self._on_new = on_new

    @cached_property
    def _private(self) -> rsa.RSAPrivateKey:
        if self._pem is not None:
            return load_key(self._pem)
        key = rsa.generate_private_key(public_exponent=65_537, key_size=2048)
        if self._on_new is not None:
            self._on_new(
                key.private_bytes(
                    serialization.Encoding.PEM,
                    serialization.PrivateFormat.PKCS8,
                    serialization.NoEncryption(),
                )
            )
        return key

    @cached_property
    def public_pem(self) -> str:
        public = self._private.public_key()
        return public.public_bytes(
            serialization.Encoding.PEM,
            serialization.PublicFormat.SubjectPublicKeyInfo,
        ).decode()

    @cached_property
    def id(self) -> str:
        return hashlib.sha256(self.public_pem.encode()).hexdigest()[:40]

    def jwk(self) -> dict[str, str]:
        """The public key as a JSON Web Key (RFC 7517)."""
        numbers = self._private.public_key().public_numbers()
        return {
            "kty": "RSA",
            "alg": "RS256",
            "use": "sig",
            "kid": self.id,
            "n": _b64_number(numbers.n),
            "e": _b64_number(numbers.e),
        }

    def jwt(self, claims: dict[str, object]) -> str:
        """A signed token (RFC 7519) with these claims."""
        header = {"alg": "RS256", "kid": self.id, "typ": "JWT"}
        parts = [_b64(json.dumps(part).encode()) for part in (header, claims)]
        signed = ".".join(parts)
        signature = self._private.sign(
            signed.encode(), padding.PKCS1v15(), hashes.SHA256()
        )
        return f"{signed}.{_b64(signature)}"


class TokenMaker:
    """Makes tokens by account and audience; uses each for five minutes of its hour."""

    def __init__(
        self, key: SigningKey, issuer: Callable[[], str], clock: Callable[[], float]
    ) -> None:
        self.key = key
        self._issuer = issuer
        self._clock = clock
        self._made: dict[tuple[str, str, str], tuple[float, str]] = {}

    def oidc(self, email: str, audience: str) -> str:
        return self._reused("oidc", email, audience)

    def oauth(self, email: str, scope: str) -> str:
        return self._reused("oauth", email, scope or _DEFAULT_SCOPE)

    def _reused(self, kind: str, email: str, what_for: str) -> str:
        key, now = (kind, email, what_for), self._clock()
        made, token = self._made.get(key, (float("-inf"), ""))
        if not made <= now < made + _REUSED_FOR:
            self._forget_old(now)
            token = self._make(kind, email, what_for, int(now))
            self._made[key] = (now, token)
        return token

    def _make(self, kind: str, email: str, what_for: str, now: int) -> str:
        if kind == "oauth":
            return f"ya29.emulator.{secrets.token_urlsafe(48)}"
        subject = int.from_bytes(hashlib.sha256(email.encode()).digest()[:8], "big")
        return self.key.jwt(
            {
                "iss": self._issuer(),
                "aud": what_for,
                "azp": str(subject),
                "sub": str(subject),
                "email": email,
                "email_verified": True,
                "iat": now,
                "exp": now + LIFETIME,
            }
        )

    def _forget_old(self, now: float) -> None:
        old = [k for k, (made, _) in self._made.items() if made + _REUSED_FOR <= now]
        for key in old:
            del self._made[key]
