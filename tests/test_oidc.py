"""Tokens: which are believed, and what they can make this process do."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from django.test import override_settings
from google.auth import jwt

from cloudtask.exceptions import UntrustedRequest
from cloudtask.targets import oidc
from tests.support import recording, tokens
from tests.support.site import ACCOUNT, Site, asgi_status, http_settings
from tests.support.tokens import Issuer, issuing
from tests.testapp import tasks

AUDIENCE = "https://app.example"


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(autouse=True)
def _nothing_kept() -> Iterator[None]:
    oidc.certificates.clear()
    yield
    oidc.certificates.clear()


@pytest.fixture
def issuer() -> Iterator[Issuer]:
    with issuing() as issuer:
        yield issuer


@pytest.fixture
def moving(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock by which certificates are kept."""
    clock = Clock()
    monkeypatch.setattr(oidc.certificates, "clock", clock)
    return clock


def verified(issuer: Issuer, token: str) -> Any:
    return oidc.verified_claims(token, AUDIENCE, issuer.url)


PAST, FUTURE = 1_600_000_000, 4_000_000_000  # in 2020 and in 2096
WRONG_CLAIMS: dict[str, dict[str, Any]] = {
    "wrong audience": {"aud": "https://other.example"},
    "audience with a slash": {"aud": "https://app.example/"},
    "audience of one path": {"aud": "https://app.example/_cloudtask/run/x"},
    "no audience": {"aud": None},
    "empty audience": {"aud": ""},
    "list of audiences": {"aud": ["https://app.example"]},
    "wrong account": {"email": "tasks@other.iam.gserviceaccount.com"},
    "account in other letters": {"email": ACCOUNT.upper()},
    "no account": {"email": None},
    "list of accounts": {"email": [ACCOUNT]},
    "account after a space": {"email": f" {ACCOUNT}"},
    "account with a letter that looks alike": {"email": ACCOUNT.replace("a", "\u0430")},
    "unverified email": {"email_verified": False},
    "email that says it is verified": {"email_verified": "true"},
    "email that is verified once": {"email_verified": 1},
    "no word on the email": {"email_verified": None},
    "expired": {"iat": PAST, "exp": PAST + 3600},
    "issued in the future": {"iat": FUTURE, "exp": FUTURE + 3600},
    "not valid before": {"nbf": FUTURE},
    "no expiry": {"exp": None},
    "no time of issue": {"iat": None},
    "expiry that is no number": {"exp": "never"},
    "expiry that is a list": {"exp": [FUTURE]},
    "expiry that never comes": {"exp": float("inf")},
    "expiry after all moments": {"exp": 10**18},
    "expiry of thousands of digits": {"exp": 10**4000},
    "expiry that is text": {"exp": str(FUTURE)},
    "expiry that is true": {"exp": True, "iat": -FUTURE},
    "issued before all moments": {"iat": float("-inf")},
    "issued at no moment": {"iat": float("nan")},
    "start that is no number": {"nbf": "now"},
    "start that is no moment": {"nbf": float("nan")},
    "start that is a list": {"nbf": [PAST]},
    "wrong issuer": {"iss": "https://evil.example"},
    "issuer that is Google": {"iss": "https://accounts.google.com"},
    "list of issuers": {"iss": ["https://accounts.google.com"]},
    "no issuer": {"iss": None},
}


@pytest.mark.parametrize("claims", WRONG_CLAIMS.values(), ids=list(WRONG_CLAIMS))
def test_a_wrong_claim_is_answered_403_and_runs_nothing(
    site: Site, caplog: pytest.LogCaptureFixture, claims: dict[str, Any]
) -> None:
    tasks.note.defer()
    answer = site.deliver(token=site.issuer.token(**claims))
    assert (answer.status_code, answer.content) == (403, b"untrusted")
    assert tasks.calls == []
    assert [r.name for r in caplog.records if r.levelname == "ERROR"] == [
        "django.security.cloudtask"
    ]


def forged(issuer: Issuer) -> dict[str, str]:
    claims = issuer.claims()
    good = tokens.token(claims)
    head, body, signature = good.split(".")
    richer = tokens.encoded({**claims, "email": "other@p"})
    # Four characters that change the signature, not only its unused last bits.
    flipped = ("AAAA" if signature[:4] != "AAAA" else "BBBB") + signature[4:]
    return {
        "unsigned": tokens.unsigned_token(claims),
        "alg none in capitals": tokens.token(claims, alg="NONE"),
        "signed by HMAC with the public key": tokens.confused_token(claims),
        "another key under the same name": tokens.token(claims, key=2, kid="key-1"),
        "unknown key": tokens.token(claims, key=2),
        "key id that is a list": tokens.token(claims, key=2, kid=["key-1"]),
        "key id that is a dict": tokens.token(claims, key=2, kid={}),
        "key id that is a number": tokens.token(claims, key=2, kid=1),
        "no key id, another key": tokens.token(claims, key=2, kid=None),
        "algorithm that is a list": tokens.token(claims, alg=["RS256"]),
        "algorithm of another family": tokens.token(claims, alg="ES256"),
        "claims of another token": f"{head}.{richer}.{signature}",
        "altered signature": f"{head}.{body}.{flipped}",
        "no signature": f"{head}.{body}.",
        "two parts": f"{head}.{body}",
        "four parts": f"{good}.{signature}",
        "half of it": good[: len(good) // 2],
        "header that is a list": f"{tokens.encoded(b'[]')}.{body}.{signature}",
        "key id that is a path": tokens.token(claims, key=2, kid="../../etc/passwd"),
        "address of other keys": tokens.token(
            claims, key=2, kid="key-1", jku=f"{issuer.url}/x", x5u=f"{issuer.url}/x"
        ),
        "header that brings its key": tokens.token(
            claims, key=2, kid="key-1", jwk={"kty": "RSA", "kid": "key-1"}
        ),
        "header that asks for extensions": tokens.token(claims, key=2, crit=["exp"]),
        "claims of thousands of digits": f"{head}.{tokens.encoded(VAST)}.{signature}",
        "deep claims": f"{head}.{tokens.encoded(b'[' * 100_000)}.{signature}",
        "header that is no JSON": f"{tokens.encoded(b'{')}.{body}.{signature}",
        "header of bytes": f"{tokens.encoded(bytes(range(256)))}.{body}.{signature}",
        "deep header": f"{tokens.encoded(b'[' * 100_000)}.{body}.{signature}",
        "claims that are a list": tokens.token(claims).replace(
            body, tokens.encoded(b"[]")
        ),
        "dots": "..",
        "nothing of the kind": "ya29.an-access-token",
        "not base64": "!!!.???.***",
        "other letters": "\u00e4.\u00f6.\u00fc",
    }


VAST = b'{"iat":' + b"9" * 5000 + b"}"


def test_no_forged_token_is_believed(site: Site) -> None:
    tasks.note.defer()
    for kind, token in forged(site.issuer).items():
        assert site.deliver(token=token).status_code == 403, kind
    assert tasks.calls == []


def test_what_a_stranger_writes_into_a_token_comes_quoted_and_short(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    claims = site.issuer.claims()
    site.post(b"", token=tokens.token(claims, kid="x\nERROR all is lost"))
    site.post(b"", token=tokens.token(claims, kid="x" * 5000))
    for record in caplog.records:
        assert "\n" not in record.getMessage()
        assert len(record.getMessage()) < 500


@pytest.mark.parametrize(
    "authorization",
    [
        "",
        "Bearer",
        "Bearer ",
        "Basic dXNlcjpwYXNz",
        "Token {}",
        "Bearer Bearer {}",
        "{}",
        "Bearer {}, Bearer {}",
        "Bearer {} x",
    ],
)
def test_the_token_must_stand_where_a_bearer_token_stands(
    site: Site, authorization: str
) -> None:
    tasks.note.defer()
    headers = {"Authorization": authorization.replace("{}", site.issuer.token())}
    assert site.deliver(token=None, headers=headers).status_code == 403
    assert tasks.calls == []


GOOD, BAD = "good", "bad"


@pytest.mark.parametrize(
    "sent",
    [
        [("authorization", GOOD), ("authorization", BAD)],
        [("authorization", BAD), ("authorization", GOOD)],
        [("authorization", GOOD), ("authorization", GOOD)],
        [("authorization_", GOOD)],
        [("x-authorization", GOOD)],
        [("proxy-authorization", GOOD)],
        [("x-forwarded-authorization", GOOD)],
        [("x-goog-iap-jwt-assertion", GOOD)],
        [("x-appengine-queuename", "default"), ("x-appengine-cron", "true")],
    ],
    ids=lambda sent: "-".join(name for name, _ in sent),
)
def test_only_one_header_of_one_name_is_believed(
    site: Site, sent: list[tuple[str, str]]
) -> None:
    tasks.note.defer()
    good = site.issuer.token()
    written = {GOOD: f"Bearer {good}", BAD: f"Bearer {good[:-8]}AAAAAAAA"}
    pairs = [(name, written.get(value, value)) for name, value in sent]
    assert asgi_status(recording.bodies()[-1:], pairs) == 403
    assert tasks.calls == []


def test_the_same_request_with_one_good_header_is_believed(site: Site) -> None:
    tasks.note.defer()
    pairs = [("authorization", f"Bearer {site.issuer.token()}")]
    assert asgi_status(recording.bodies()[-1:], pairs) == 200


def test_the_scheme_may_be_in_any_letters(site: Site) -> None:
    tasks.note.defer()
    headers = {"Authorization": f"bearer  {site.issuer.token()}"}
    assert site.deliver(token=None, headers=headers).status_code == 200


def test_another_audience_may_be_set(site: Site) -> None:
    given = http_settings(site.issuer.url)
    given["TARGET"]["AUDIENCE"] = "mine"
    with override_settings(CLOUDTASK=given):
        tasks.note.defer()
        assert site.deliver().status_code == 403
        assert site.deliver(token=site.issuer.token(aud="mine")).status_code == 200


def test_without_an_issuer_only_google_is_believed(site: Site, mocker: Any) -> None:
    fetched = mocker.patch("google.auth.transport.requests.Request.__call__")
    fetched.return_value = mocker.Mock(
        status=200, headers={}, data=site.issuer.certificates()
    )
    given = http_settings(site.issuer.url)
    del given["TARGET"]["ISSUER"]
    with override_settings(CLOUDTASK=given):
        tasks.note.defer()
        assert site.deliver().status_code == 403
        for iss in ("https://accounts.google.com", "accounts.google.com"):
            assert site.deliver(token=site.issuer.token(iss=iss)).status_code == 200
        fake = site.issuer.token(iss="https://accounts.google.com.evil.example")
        assert site.deliver(token=fake).status_code == 403
    fetched.assert_called_once()
    assert fetched.call_args.args == ("https://www.googleapis.com/oauth2/v1/certs",)


def test_the_emulators_tokens_are_believed_by_its_own_certificates() -> None:
    from cloudtask.emulator import Emulator

    with Emulator() as emulator:
        server = emulator._started()
        token = server.engine.tokens.oidc(ACCOUNT, AUDIENCE)
        claims = oidc.verified_claims(token, AUDIENCE, emulator.http_address)
    assert claims["email"] == ACCOUNT


# Tokens that come again.


def test_the_signature_of_a_token_is_checked_once(issuer: Issuer, mocker: Any) -> None:
    token = issuer.token()
    first = verified(issuer, token)
    checked = mocker.spy(jwt, "decode")
    assert verified(issuer, token) == first
    assert verified(issuer, token) == first
    checked.assert_not_called()


@pytest.mark.parametrize("seconds", [-7200, 7200])
def test_the_times_of_a_token_are_compared_each_time(
    issuer: Issuer, mocker: Any, seconds: float
) -> None:
    token = issuer.token()
    verified(issuer, token)
    now = time.time()
    mocker.patch("cloudtask.targets.oidc.time.time", return_value=now + seconds)
    with pytest.raises(UntrustedRequest, match=r"expired|not valid yet"):
        verified(issuer, token)


def test_a_token_that_came_before_is_refused_for_another_audience(
    issuer: Issuer,
) -> None:
    token = issuer.token()
    verified(issuer, token)
    with pytest.raises(UntrustedRequest, match="not valid"):
        oidc.verified_claims(token, "https://other.example", issuer.url)


def test_a_token_is_refused_when_its_key_is_withdrawn(
    issuer: Issuer, moving: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = issuer.token()
    verified(issuer, token)
    monkeypatch.setattr(issuer, "certificates", lambda: b"{}")
    moving.now += oidc.LONGEST_LIFETIME + 1
    with pytest.raises(UntrustedRequest, match="not valid"):
        verified(issuer, token)


def test_remembered_claims_are_read_only(issuer: Issuer) -> None:
    with pytest.raises(TypeError):
        verified(issuer, issuer.token())["email"] = "other@p"


# Certificates.


def test_certificates_are_fetched_once_for_many_tokens(issuer: Issuer) -> None:
    for _ in range(20):
        verified(issuer, issuer.token())
    assert issuer.requests == ["/oauth2/v1/certs"]


def test_many_threads_fetch_once(issuer: Issuer) -> None:
    token = issuer.token()
    threads = [
        threading.Thread(target=verified, args=(issuer, token)) for _ in range(12)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(issuer.requests) == 1


def test_certificates_are_fetched_again_when_their_lifetime_is_over(
    issuer: Issuer, moving: Clock
) -> None:
    issuer.cache_control = "public, max-age=600, must-revalidate"
    verified(issuer, issuer.token())
    moving.now += 599
    verified(issuer, issuer.token())
    assert len(issuer.requests) == 1
    moving.now += 2
    verified(issuer, issuer.token())
    assert len(issuer.requests) == 2


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, oidc.DEFAULT_LIFETIME),
        ({"cache-control": "no-cache"}, oidc.DEFAULT_LIFETIME),
        ({"Cache-Control": "max-age=500", "Age": "100"}, 400),
        ({"Cache-Control": "max-age=0"}, oidc.PAUSE),
        ({"Cache-Control": "max-age=100", "Age": "900"}, oidc.PAUSE),
        ({"Cache-Control": "max-age=99999999"}, oidc.LONGEST_LIFETIME),
    ],
)
def test_the_lifetime_is_what_the_answer_says_within_reason(
    headers: dict[str, str], seconds: float
) -> None:
    assert oidc._lifetime(headers) == seconds


def test_a_new_key_is_known_at_once(issuer: Issuer, moving: Clock) -> None:
    verified(issuer, issuer.token())
    issuer.keys = [1, 2]
    moving.now += oidc.PAUSE
    verified(issuer, tokens.token(issuer.claims(), key=2))
    assert len(issuer.requests) == 2


def test_a_key_that_was_withdrawn_is_forgotten(issuer: Issuer, moving: Clock) -> None:
    verified(issuer, issuer.token())
    issuer.keys = [2]
    moving.now += 3601
    with pytest.raises(UntrustedRequest):
        verified(issuer, issuer.token())


def test_unknown_keys_cause_one_fetch_per_pause_however_many_come(
    issuer: Issuer, moving: Clock
) -> None:
    claims = issuer.claims()
    verified(issuer, issuer.token())
    for number in range(60):
        moving.now += 1
        with pytest.raises(UntrustedRequest):
            verified(issuer, tokens.token(claims, kid=f"made-up-{number}"))
    assert len(issuer.requests) <= 1 + 60 / oidc.PAUSE
    verified(issuer, issuer.token())


def test_what_is_no_token_causes_no_fetch(issuer: Issuer, moving: Clock) -> None:
    for garbage in ("x", "a.b.c", "..", tokens.encoded(b"{}") + ".."):
        with pytest.raises(UntrustedRequest):
            verified(issuer, garbage)
    assert issuer.requests == []


@pytest.mark.parametrize("status", [404, 500, 302])
def test_without_certificates_nothing_is_believed_and_fetches_are_rare(
    issuer: Issuer, moving: Clock, status: int
) -> None:
    issuer.status = status
    for _ in range(20):
        with pytest.raises(UntrustedRequest, match="can't be had"):
            verified(issuer, issuer.token())
    assert len(issuer.requests) == 1
    issuer.status = 200
    moving.now += oidc.PAUSE
    verified(issuer, issuer.token())


def test_an_issuer_that_nobody_answers_for_is_not_believed(moving: Clock) -> None:
    with issuing() as issuer:
        token = issuer.token()
    with pytest.raises(UntrustedRequest, match="can't be had"):
        verified(issuer, token)


@pytest.mark.parametrize(
    "answer", [b"", b"[]", b"{", b'{"keys": []}', b'{"key-1": 3}', b'{"key-1": "x"}']
)
def test_an_answer_that_is_no_certificates_is_not_believed(
    issuer: Issuer, moving: Clock, answer: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(issuer, "certificates", lambda: answer)
    with pytest.raises(UntrustedRequest):
        verified(issuer, issuer.token())


def test_old_certificates_serve_for_a_while_when_none_can_be_fetched(
    issuer: Issuer, moving: Clock
) -> None:
    verified(issuer, issuer.token())
    issuer.status = 503
    moving.now += 3600 + 1
    verified(issuer, issuer.token())
    moving.now += oidc.GRACE
    with pytest.raises(UntrustedRequest, match="can't be had"):
        verified(issuer, issuer.token())


def test_a_broken_fetch_is_logged_without_the_token(
    issuer: Issuer, moving: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    issuer.status = 500
    with pytest.raises(UntrustedRequest):
        verified(issuer, issuer.token())
    (record,) = [r for r in caplog.records if r.name == "cloudtask"]
    assert issuer.url in record.getMessage()
    assert "500" in record.getMessage()
