"""Deliveries: what arrives, what is refused, and what each answer is."""

from __future__ import annotations

import logging
import sys
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.conf import settings
from django.db import connections
from django.test import AsyncClient, RequestFactory, override_settings

from cloudtask import conf, envelope, quotas, registry, views
from cloudtask.models import FailedTask
from tests.support import clock, recording
from tests.support.site import Site, asgi_status, http_settings
from tests.testapp import tasks
from tests.testapp.models import Author

SECURITY = "django.security.cloudtask"


def sealed(*args: object) -> bytes:
    tasks.note.defer(*args)
    return recording.bodies()[-1]


def errors(caplog: pytest.LogCaptureFixture, name: str) -> list[str]:
    return [
        record.getMessage()
        for record in caplog.records
        if record.name == name and record.levelno >= logging.ERROR
    ]


# Deliveries that are accepted.


def test_a_delivery_calls_the_function_and_is_answered_200(site: Site) -> None:
    tasks.note.defer(1, b=(2,))
    assert site.deliver().status_code == 200
    assert tasks.calls == [((1,), {"b": (2,)})]


def test_an_asynchronous_task_is_awaited(site: Site) -> None:
    tasks.anote.defer(3)
    assert site.deliver().status_code == 200
    assert tasks.calls == [("async", 3)]


def test_the_context_tells_what_the_headers_say(site: Site) -> None:
    tasks.see_context.using(queue="mail").defer()
    site.deliver(
        headers={
            "X-CloudTasks-TaskRetryCount": "3",
            "X-CloudTasks-TaskExecutionCount": "1",
            "X-CloudTasks-TaskETA": "1700000000.5",
            "X-CloudTasks-TaskPreviousResponse": "503",
            "X-CloudTasks-TaskRetryReason": "because",
        }
    )
    (context,) = tasks.calls
    assert (context.queue, context.attempt, context.retries) == ("mail", 4, 3)
    assert (context.executions, context.previous_response) == (1, 503)
    assert context.retry_reason == "because"
    assert context.eta.timestamp() == 1700000000.5
    assert context.name == recording.sent[0].name
    assert context.max_attempts == conf.DEFAULT_MAX_ATTEMPTS


@pytest.mark.parametrize("value", ["", "-1", "x", "1.5", "\u0663", "9" * 5000])
def test_headers_that_make_no_sense_do_no_harm(site: Site, value: str) -> None:
    tasks.see_context.defer()
    headers = {"X-CloudTasks-TaskPreviousResponse": value}
    if value.isascii():
        headers |= {
            "X-CloudTasks-TaskRetryCount": value,
            "X-CloudTasks-TaskETA": value,
        }
    assert site.deliver(headers=headers).status_code == 200


@pytest.mark.parametrize("limit", [None, 10, 5_000_000])
def test_djangos_limit_for_forms_does_not_apply(site: Site, limit: int | None) -> None:
    tasks.note.defer("x" * 50_000)
    with override_settings(DATA_UPLOAD_MAX_MEMORY_SIZE=limit):
        assert site.deliver().status_code == 200


def read_first(get_response):
    def middleware(request):
        assert request.body
        return get_response(request)

    return middleware


def test_a_body_that_a_middleware_has_read_is_read_again(site: Site) -> None:
    tasks.note.defer(1)
    with override_settings(MIDDLEWARE=["tests.test_views.read_first"]):
        assert site.deliver().status_code == 200
    assert tasks.calls == [((1,), {})]


def test_forgery_protection_does_not_apply(site: Site) -> None:
    site.client.handler.enforce_csrf_checks = True
    tasks.note.defer(1)
    assert site.deliver().status_code == 200


@pytest.mark.parametrize("size", [-1, 0, 1])
def test_a_body_may_have_exactly_the_largest_size(site: Site, size: int) -> None:
    body = sealed("x")
    limit = len(body) + size
    with override_settings(
        CLOUDTASK=http_settings(site.issuer.url, MAX_BODY_SIZE=limit)
    ):
        assert site.post(body).status_code == (413 if size < 0 else 200)
    assert len(tasks.calls) == (0 if size < 0 else 1)


async def _post_async(body: bytes, headers: dict[str, str]):
    client = AsyncClient()
    return await client.post(
        "/_cloudtask/run/tests.testapp.tasks.anote",
        body,
        content_type="application/octet-stream",
        headers=headers,
    )


def test_deliveries_arrive_under_asgi(site: Site) -> None:
    tasks.anote.defer("there")
    headers = {"Authorization": f"Bearer {site.issuer.token()}"}
    answer = async_to_sync(_post_async)(recording.bodies()[-1], headers)
    assert answer.status_code == 200
    assert tasks.calls == [("async", "there")]
    refused = async_to_sync(_post_async)(recording.bodies()[-1], {})
    assert refused.status_code == 403


# The table of outcomes.


def test_a_failure_is_answered_500_and_logged_with_task_queue_and_attempt(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    tasks.fail.using(queue="mail").defer()
    answer = site.deliver(headers={"X-CloudTasks-TaskRetryCount": "1"})
    assert answer.status_code == 500
    (record,) = [one for one in caplog.records if one.name == "cloudtask"]
    assert (record.levelname, bool(record.exc_info)) == ("WARNING", True)
    text = record.getMessage()
    assert "tests.testapp.tasks.fail" in text
    assert "'mail'" in text
    assert "attempt 2" in text
    assert not errors(caplog, "django.request")


def test_a_singular_failure_is_answered_500_without_an_error_in_any_log(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    tasks.fail_quietly.defer()
    answer = site.deliver()
    assert answer.status_code == 500
    assert answer[views.OUTCOME_HEADER] == "postponed"
    assert [r.levelname for r in caplog.records if r.name == "cloudtask"] == ["INFO"]
    assert not [r for r in caplog.records if r.levelno >= logging.WARNING]


@pytest.mark.django_db(transaction=True)
def test_a_permanent_failure_is_answered_200_and_kept(site: Site) -> None:
    tasks.fail_for_good.defer()
    assert site.deliver().status_code == 200
    kept = FailedTask.objects.get()
    assert kept.task == "tests.testapp.tasks.fail_for_good"
    assert "no use" in kept.traceback


@pytest.mark.django_db(transaction=True)
def test_the_last_attempt_is_answered_200_and_kept(site: Site) -> None:
    tasks.fail_twice.defer()
    first = site.deliver()
    assert (first.status_code, first[views.OUTCOME_HEADER]) == (500, "failed")
    assert not FailedTask.objects.exists()
    last = site.deliver(headers={"X-CloudTasks-TaskRetryCount": "1"})
    assert (last.status_code, last[views.OUTCOME_HEADER]) == (200, "exhausted")
    assert FailedTask.objects.get().attempts == 2


def test_a_retry_is_answered_200_after_its_successor_was_enqueued(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    tasks.again.defer(1, delay=60)
    first = recording.sent[-1]
    assert site.deliver().status_code == 200
    second = recording.sent[-1]
    assert (second.id, second.attempts) == (first.id, 1)
    assert second.name != first.name
    assert not errors(caplog, "cloudtask")
    assert site.deliver().status_code == 200
    assert [attempt for _, attempt in tasks.calls] == [1, 2]


def test_a_task_that_this_version_does_not_know_is_answered_404(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    tasks.note.defer()
    unknown = replace(recording.sent[-1], task="tests.testapp.tasks.gone")
    answer = site.deliver(unknown)
    assert answer.status_code == 404
    assert any("tests.testapp.tasks.gone" in e for e in errors(caplog, "cloudtask"))


@pytest.mark.parametrize(
    "path",
    [
        "os.system",
        "tests.testapp.tasks.calls.append",
        "tests.testapp.models.Author",
        "tests.testapp.tasks",
        "nowhere.at.all",
        "x",
    ],
)
def test_only_registered_tasks_run_whatever_a_signed_body_names(
    site: Site, path: str
) -> None:
    tasks.note.defer("rm")
    answer = site.deliver(replace(recording.sent[-1], task=path))
    assert answer.status_code == 404
    assert tasks.calls == []


def test_a_payload_that_cannot_be_decoded_fails_the_attempt(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    tasks.note.defer()
    broken = replace(recording.sent[-1], payload=b"{")
    assert site.deliver(broken).status_code == 500
    assert tasks.calls == []
    assert "failed, and is tried again" in caplog.text


def test_a_call_that_fits_the_function_no_longer_fails_the_attempt(
    site: Site,
) -> None:
    tasks.add_author.defer("x")
    other = replace(recording.sent[-1], payload=b'[[1,2,3],{"nope":1}]')
    assert site.deliver(other).status_code == 500


# The database.


@pytest.mark.django_db(transaction=True, databases=["default", "other"])
def test_a_delivery_does_not_run_inside_the_transaction_of_a_request(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    for alias in connections:
        monkeypatch.setitem(connections[alias].settings_dict, "ATOMIC_REQUESTS", True)
    tasks.note_transactions.defer()
    assert site.deliver().status_code == 200
    assert tasks.calls == [{"default": False, "other": False}]


@pytest.mark.django_db(transaction=True)
def test_an_atomic_task_that_is_delivered_twice_writes_once(site: Site) -> None:
    tasks.add_author_atomically.defer("once")
    assert site.deliver().status_code == 200
    assert site.deliver().status_code == 200
    assert Author.objects.count() == 1


@pytest.mark.django_db(transaction=True)
def test_what_an_asynchronous_task_wrote_is_rolled_back_when_it_fails(
    site: Site,
) -> None:
    tasks.aadd_author_and_fail.defer("gone")
    assert site.deliver().status_code == 500
    assert not Author.objects.exists()


def test_an_asynchronous_task_has_its_context(site: Site) -> None:
    tasks.asee_context.defer()
    assert site.deliver().status_code == 200
    assert tasks.calls[0].id == recording.sent[0].id


# Bodies that are refused.


def test_only_post_is_allowed(site: Site) -> None:
    for method in ("get", "put", "patch", "delete", "head", "options"):
        answer = getattr(site.client, method)("/_cloudtask/run/x")
        assert answer.status_code == 405
        assert answer["Allow"] == "POST"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b"ct",
        b"not json at all",
        b'{"task": "os.system", "args": ["true"]}',
        b"\x80\x04\x95.",
        b"ct" + bytes(44),
        b"ct\x02" + bytes(100),
    ],
)
def test_what_is_no_envelope_is_answered_400(site: Site, body: bytes) -> None:
    assert site.post(body).status_code == 400
    assert tasks.calls == []


def test_an_envelope_of_another_version_is_answered_400(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cloud Tasks tries again, and meets the version that has made it."""
    with monkeypatch.context() as newer:
        newer.setattr(envelope, "VERSION", envelope.VERSION + 1)
        body = sealed("value")
    assert site.post(body).status_code == 400


def test_every_altered_byte_is_noticed(site: Site) -> None:
    body = sealed("a value", 17)
    for place in range(len(body)):
        altered = bytearray(body)
        altered[place] ^= 1
        assert site.post(bytes(altered)).status_code in (400, 403), place
    assert tasks.calls == []


def test_a_tampered_body_is_answered_403_and_logged_as_a_security_event(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    body = sealed("pay 1")
    assert site.post(body.replace(b"pay 1", b"pay 9")).status_code == 403
    assert len(errors(caplog, SECURITY)) == 1
    assert tasks.calls == []


def test_a_truncated_or_extended_body_runs_nothing(site: Site) -> None:
    body = sealed("value")
    for length in (1, envelope.HEADER_SIZE - 1, envelope.HEADER_SIZE, len(body) - 1):
        assert site.post(body[:length]).status_code in (400, 403)
    assert site.post(body + b"x").status_code == 403
    assert site.post(body + body).status_code == 403
    assert tasks.calls == []


def test_a_body_signed_with_another_key_is_answered_403(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    tasks.note.defer()
    with override_settings(SECRET_KEY="somebody else's"):
        body = recording.bodies()[-1]
    assert site.post(body).status_code == 403
    assert errors(caplog, SECURITY)
    assert tasks.calls == []


def test_a_body_of_the_key_before_the_rotation_is_accepted(site: Site) -> None:
    tasks.note.defer()
    with override_settings(SECRET_KEY="old"):
        body = recording.bodies()[-1]
    with override_settings(SECRET_KEY="new", SECRET_KEY_FALLBACKS=["older", "old"]):
        assert site.post(body).status_code == 200
    with override_settings(SECRET_KEY="new", SECRET_KEY_FALLBACKS=[]):
        assert site.post(body).status_code == 403
    assert len(tasks.calls) == 1


def test_the_body_of_another_task_is_answered_403(site: Site) -> None:
    body = sealed("x")
    assert site.post(body, "tests.testapp.tasks.small_note").status_code == 403
    assert tasks.calls == []


def test_an_expired_body_is_answered_403(site: Site) -> None:
    body = sealed("x")
    with clock.ahead(timedelta(days=33).total_seconds()):
        fresh = site.issuer.token()
        assert site.post(body, token=fresh).status_code == 403
    assert tasks.calls == []


def test_a_body_that_announces_too_much_is_not_read(site: Site) -> None:
    class Unreadable:
        def read(self, *args: object) -> bytes:
            raise AssertionError("The body was read.")

    for length in ("1200001", "9" * 4000):
        request = RequestFactory().post(
            "/_cloudtask/run/x",
            headers={"Authorization": f"Bearer {site.issuer.token()}"},
        )
        request.META["CONTENT_LENGTH"] = length
        request._stream = Unreadable()  # type: ignore[assignment]
        assert views.run(request, "x").status_code == 413


def test_a_body_that_announces_nothing_is_read_no_further_than_the_limit(
    site: Site,
) -> None:
    class Endless:
        taken = 0

        def read(self, size: int = -1) -> bytes:
            assert size >= 0
            self.taken += size
            return b"x" * size

    request = RequestFactory().post(
        "/_cloudtask/run/x", headers={"Authorization": f"Bearer {site.issuer.token()}"}
    )
    del request.META["CONTENT_LENGTH"]
    request.META["HTTP_TRANSFER_ENCODING"] = "chunked"
    request._stream = stream = Endless()  # type: ignore[assignment]
    assert views.run(request, "x").status_code == 413
    assert stream.taken <= conf.settings().max_body_size + 1


def test_a_compressed_body_may_not_expand_without_end(site: Site) -> None:
    tasks.note.defer()
    bomb = replace(recording.sent[-1], payload=b"0" * (quotas.EXPANDED + 1))
    assert site.deliver(bomb).status_code == 400
    assert tasks.calls == []


# Answers to untrusted requests, and effects that they can have.

UNIMPORTED = "tests.testapp.unimported"


@pytest.fixture
def unimported(monkeypatch: pytest.MonkeyPatch):
    """Neither the module nor its task is known, whatever ran before in this process."""
    known = {
        path: one for path, one in registry._known.items() if UNIMPORTED not in path
    }
    monkeypatch.setattr(registry, "_known", known)
    sys.modules.pop(UNIMPORTED, None)
    yield
    sys.modules.pop(UNIMPORTED, None)


def test_nothing_is_imported_or_decoded_for_a_stranger(
    site: Site, unimported: None
) -> None:
    tasks.note.defer(tasks.Bomb())
    message = replace(recording.sent[-1], task=f"{UNIMPORTED}.reached")
    body = envelope.seal(message)
    with override_settings(SECRET_KEY="a forger's"):
        forged = envelope.seal(message)
    assert site.post(body, message.task, token=None).status_code == 403
    assert site.post(forged, message.task).status_code == 403
    assert site.post(body[:-1] + b"x", message.task).status_code == 403
    assert UNIMPORTED not in sys.modules
    assert tasks.Bomb.decoded == []


def test_the_module_of_a_task_is_imported_for_a_delivery_that_is_trusted(
    site: Site, unimported: None
) -> None:
    tasks.note.defer()
    message = replace(recording.sent[-1], task=f"{UNIMPORTED}.reached")
    assert site.deliver(message).status_code == 200
    assert sys.modules[UNIMPORTED].ran == ["reached"]


@pytest.mark.parametrize(
    "task", ["tests.testapp.tasks.note", "no.such.task", "x" * 900]
)
def test_a_stranger_gets_the_same_answer_whatever_is_asked(
    site: Site, task: str
) -> None:
    answers = [
        site.post(body, task, token=None)
        for body in (sealed("x"), b"", b"{}", b"x" * 2_000_000)
    ]
    assert {(a.status_code, a.content) for a in answers} == {(403, b"untrusted")}
    assert not {"Server", "Set-Cookie", "WWW-Authenticate"} & set(answers[0].headers)


def test_each_refusal_is_logged_once_and_in_one_line(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    site.post(b"", "x%0AERROR all is lost", token=None)
    (record,) = [r for r in caplog.records if r.levelno >= logging.WARNING]
    assert record.name == SECURITY
    assert "\n" not in record.getMessage()


def test_no_log_holds_the_token_or_the_arguments(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, logger="cloudtask")
    token = site.issuer.token(aud="https://other.example")
    site.post(sealed("a secret"), token=token)
    site.post(sealed("a secret"), token="ya29.an-access-token")
    tasks.fail.defer("broken")
    site.post(recording.bodies()[-1].replace(b"broken", b"brokem"))
    for record in caplog.records:
        text = record.getMessage()
        assert token not in text
        assert token.rpartition(".")[2] not in text
        assert "ya29" not in text
        assert "a secret" not in text


# The relay.


def test_strangers_may_not_relay(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    assert site.client.post("/_cloudtask/relay/").status_code == 403
    assert site.client.delete("/_cloudtask/relay/").status_code == 405
    cron = {"X-AppEngine-Cron": "true"}
    assert site.client.get("/_cloudtask/relay/", headers=cron).status_code == 403
    assert len(errors(caplog, SECURITY)) == 2


@pytest.mark.django_db(transaction=True, databases=["default", "other"])
def test_the_relay_lets_in_a_token_of_the_target_or_its_own(site: Site) -> None:
    def get(token: str) -> int:
        headers = {"Authorization": f"Bearer {token}"}
        return site.client.get("/_cloudtask/relay/", headers=headers).status_code

    assert get(site.issuer.token()) == 200
    assert get("own") == 403
    with override_settings(CLOUDTASK=http_settings(site.issuer.url, RELAY_TOKEN="own")):
        assert get("own") == 200
        assert get("owm") == 403
        assert get("\u00f6wn") == 403
        assert get("") == 403


# Servers.


def chunked(site: Site, chunks: list[bytes], token: str | None = None) -> int:
    """The status of a POST in chunks, without a Content-Length, as servers pass it."""
    authorization = f"Bearer {token or site.issuer.token()}"
    headers = [("authorization", authorization), ("transfer-encoding", "chunked")]
    return asgi_status(chunks, headers)


def test_a_body_in_chunks_is_read_to_its_end(site: Site) -> None:
    body = sealed("in chunks")
    chunks = [body[place : place + 7] for place in range(0, len(body), 7)]
    assert chunked(site, chunks) == 200
    assert tasks.calls == [(("in chunks",), {})]
    assert chunked(site, chunks, token="x.y.z") == 403


def test_a_body_in_chunks_may_not_be_too_large_either(site: Site) -> None:
    assert chunked(site, [b"x" * 100_000] * 13) == 413
    assert chunked(site, []) == 400
    assert tasks.calls == []


# Middleware of the project.


def audit(get_response: Any) -> Any:
    """Look at the body after the view, as middleware that logs requests does."""

    def middleware(request: Any) -> Any:
        response = get_response(request)
        response["X-Audited"] = str(len(request.body))
        return response

    return middleware


def with_middleware(name: str) -> Any:
    return override_settings(MIDDLEWARE=[*settings.MIDDLEWARE, name])


def test_a_login_that_is_required_does_not_redirect_deliveries(site: Site) -> None:
    tasks.note.defer("a")
    with with_middleware("django.contrib.auth.middleware.LoginRequiredMiddleware"):
        assert site.deliver().status_code == 200
        assert site.client.post("/_cloudtask/relay/").status_code == 403
    assert tasks.calls == [(("a",), {})]


def test_middleware_can_read_the_body_after_the_view(site: Site) -> None:
    tasks.note.defer("a")
    with with_middleware(f"{__name__}.audit"):
        answer = site.deliver()
    assert answer.status_code == 200
    assert answer["X-Audited"] == str(len(recording.bodies()[-1]))
